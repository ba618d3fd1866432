# shellcheck shell=sh
# What the scripts of both packages have in common; packaging/packages.sh puts it into each of them, with the users in place
# of the mark. For sh, with or without a systemd that runs (a chroot, an image), and any number of times.

# From /usr/lib/sysusers.d/aisix.conf.
users='@USERS@'

# Where there is no systemd-sysusers, the same without it.
make_users() {
    if command -v systemd-sysusers >/dev/null; then
        printf '%s\n' "$users" | systemd-sysusers --replace=/usr/lib/sysusers.d/aisix.conf -
        return
    fi
    printf '%s\n' "$users" | while read -r kind name rest; do
        case $kind in
        g) getent group "$name" >/dev/null || groupadd --system "$name" ;;
        u | u!)
            getent passwd "$name" >/dev/null && continue
            # A group of that name may be there already: made by a line before, or by the administrator.
            if getent group "$name" >/dev/null; then own="--gid $name"; else own=--user-group; fi
            # shellcheck disable=SC2086
            useradd --system $own --home-dir / --no-create-home --shell /usr/sbin/nologin "$name"
            ;;
        m) usermod --append --groups "${rest%% *}" "$name" ;;
        esac
    done
}

make_folders() {
    if command -v systemd-tmpfiles >/dev/null; then
        systemd-tmpfiles --create aisix.conf || true
    fi
}

systemd_runs() { [ -d /run/systemd/system ]; }

load_units() {
    if systemd_runs; then systemctl daemon-reload || true; fi
}

# Started, even if it is not ready yet.
gateway_runs() {
    systemd_runs || return 1
    case $(systemctl show --property=ActiveState --value aisix.service) in
    active | activating | reloading) return 0 ;;
    *) return 1 ;;
    esac
}

# Variables: the operator's file, never one of the package's own, so that no question is asked about it.
make_variables() {
    if [ ! -e /etc/aisix/aisix.env ]; then install -m 600 /usr/share/aisix/aisix.env /etc/aisix/aisix.env; fi
}

# A bundle where the unit looks for it, or where the operator says that it is (elsewhere, as text, or, if the variable is set to
# nothing, in the state directory from an earlier life), and somewhere to connect to.
can_connect() {
    if [ ! -e /etc/aisix/mtls/client.crt ]; then
        if grep -Eqs '^[[:space:]]*AISIX_MANAGED__CP_CERT_FILE=[[:space:]]*$' /etc/aisix/aisix.env; then
            [ -e /var/lib/aisix/mtls/client.crt ] || grep -Eqs '^[[:space:]]*AISIX_MANAGED__CP_CERT_PEM=.' /etc/aisix/aisix.env || return 1
        else
            grep -Eqs '^[[:space:]]*AISIX_MANAGED__CP_CERT_FILE=.' /etc/aisix/aisix.env || return 1
        fi
    fi
    grep -Eqs "^[[:space:]]*AISIX_MANAGED__CP_BASE_URL=[\"']?[^\"'[:space:]]" /etc/aisix/aisix.env ||
        grep -Eqs '^[[:space:]]+cp_base_url:[[:space:]]*[^[:space:]#]' /etc/aisix/config.managed.yaml
}

tell_what_is_next() {
    echo 'aisix is not started yet. Put client.crt, client.key and ca.crt of its certificate bundle into /etc/aisix/mtls,'
    echo 'set AISIX_MANAGED__CP_BASE_URL=https://HOST:PORT of the Cloud manager in /etc/aisix/aisix.env, then start it:'
    echo 'systemctl enable --now aisix (and if something is not as it should be: aisix doctor).'
}

tell_that_it_does_not_start() {
    echo 'aisix is installed, and does not start. What is wrong, and what to do: aisix doctor' >&2
}

# The gateway that runs goes on as the programs that were just installed: same process, no connection lost. Where it refuses,
# it serves on as it is; that is no reason to fail here, and never one to restart it.
take_over() {
    tries=5
    until ask_for_upgrade; do
        tries=$((tries - 1))
        case $said in
        *'ask again'*) if [ $tries -gt 0 ]; then sleep 2 && continue; fi ;;
        *'no such socket'*)
            # A variable may name another one.
            systemctl kill --signal=USR2 --kill-who=main aisix.service || true
            echo 'aisix: the gateway is asked by a signal to go on as the new programs; journalctl -u aisix tells what came of it.'
            return 0
            ;;
        esac
        printf '%s\n' "$said" >&2
        echo 'aisix: the gateway serves on with the programs it was started with. To try again: aisix upgrade; if it still' >&2
        echo 'refuses: aisix doctor, and in the end: systemctl restart aisix (its listeners stay open meanwhile).' >&2
        return 0
    done
    printf 'aisix: %s\n' "$said"
}

# In time, and without what a terminal would obey: who answers is trusted less than who asks. Sets `said`.
ask_for_upgrade() {
    code=0
    said=$(timeout -k 5 90 /usr/bin/aisix upgrade 2>&1) || code=$?
    said=$(printf '%s' "$said" | tr -d '\000-\010\013-\037\177')
    return $code
}
