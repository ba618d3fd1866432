#!/bin/bash
# packages_within.sh deb|rpm PACKAGE OTHER-PACKAGE VERSION OTHER-VERSION: the life of a package, inside a machine of its own; see
# packages.sh.
set -euo pipefail
# shellcheck source=tests/system/packages_tools.sh
. "$(dirname "$0")/packages_tools.sh"
kind=$1 package=$2 other_package=$3 version=$4 other=$5
given=/root/given
environment=11111111-2222-3333-4444-555555555555
view=http://127.0.0.1:7945
trap '[ $? = 0 ] || journalctl --unit=aisix --no-pager --output=cat | grep -v " completed " | tail -40' EXIT

shown() { systemctl show aisix --property="$1" --value; }
status() { aisix status --json | jq -r "$1"; }
status_is() { [ "$(status "$1" 2>/dev/null)" = "$2" ]; }
is_ready() { status_is .ready true; }
chat() { # prints the request's id
    curl -sS -m 30 --fail-with-body -D /tmp/headers -o /tmp/answer http://127.0.0.1:3000/v1/chat/completions \
        -H 'Authorization: Bearer sk-demo' -H 'Content-Type: application/json' \
        -d '{"model":"gpt-demo","messages":[{"role":"user","content":"hello"}]}' || return 1
    sed -n 's/^x-aisix-request-id: *\([^[:space:]]*\).*/\1/Ip' /tmp/headers
}
has_usage() { [ "$(curl -sS "$view/usage?request_id=$1" | jq length)" = 1 ]; }
serves() {
    local id
    until_true 30 is_ready || fail "it is not ready $1: $(aisix status 2>&1)"
    id=$(chat) || fail "a request fails $1: $(cat /tmp/answer)"
    until_true 60 has_usage "$id" || fail "the Cloud has no usage of the request $id $1"
    ok "it serves $1, and the Cloud has the usage"
}
issue() { "$given/aisix-cloud" issue --data /root/cloud --env $environment --dp 99999999-2222-3333-4444-555555555555 --out "$1" >/dev/null; }
bundle_of() { openssl x509 -noout -fingerprint -sha256 -in "$1" | sed 's/.*=//; s/://g' | tr A-F a-f; }
in_force() { status .identity.fingerprint_sha256; }
serials() { curl -sS "$view/connections" | jq -r '[.[].fingerprint_sha256] | unique | .[]'; }

load_begins() {
    wrk --threads 1 --connections 4 --duration 600s --timeout 20s --script "$given/packages.lua" \
        http://127.0.0.1:3000/v1/chat/completions >/tmp/kept 2>&1 &
    kept=$!
    wrk --threads 1 --connections 2 --duration 600s --timeout 20s --script "$given/packages.lua" \
        http://127.0.0.1:3000/v1/chat/completions -- fresh >/tmp/fresh 2>&1 &
    fresh=$!
}
answered() { [ "$(status .traffic.answered)" -gt "$1" ]; }
goes_on() { until_true 60 answered $(($(status .traffic.answered) + 200)) || fail "no request is answered any more"; }
load_ends() { # WHAT
    # It finishes no request in flight, and counts none of them.
    kill -INT $kept $fresh
    wait $kept $fresh || true
    local connections
    for connections in kept fresh; do
        grep -q '^requests ' /tmp/$connections || fail "no figures of the load: $(cat /tmp/$connections)"
        grep -q '^requests [1-9][0-9]* failed 0 ' /tmp/$connections || fail "$1, over $connections connections: $(cat /tmp/$connections)"
        ok "$1, over $connections connections: $(grep '^requests ' /tmp/$connections)"
    done
}
# The same process goes on as another version.
becomes() { # PACKAGE VERSION WHAT
    local pid
    pid=$(shown MainPID)
    load_begins
    goes_on
    install_package "$kind" "$1" >/tmp/said 2>&1 || fail "no $3: $(cat /tmp/said)"
    until_true 60 status_is .version "$2" || fail "after the $3 it is of version $(status .version): $(cat /tmp/said)"
    until_true 60 status_is '[.workers[].version // "'"$2"'"] | unique | join(" ")' "$2" || fail "not all workers are new: $(status .workers)"
    goes_on
    load_ends "$3 under load"
    [ "$(shown MainPID)" = "$pid" ] || fail "the $3 has changed the process"
    [ "$(shown NRestarts)" = 0 ] || fail "the $3 has restarted it"
    serves "after the $3"
    is_as_packaged "$kind"
}

# --- a machine without a bundle
said=$(install_package "$kind" "$package" 2>&1) || fail "it is not installed: $said"
says_what_is_next "$said"
[ "$(shown ActiveState)" = inactive ] || fail "it was started"
systemctl is-enabled --quiet aisix && fail "it was enabled"
ok "it is neither started nor enabled"
users_are_there
files_are_owned
is_as_packaged "$kind"
man --where aisix aisix-worker aisix.yaml >/dev/null || fail "there are no man pages"
# As an interactive shell finds it.
[ "$(bash -c '. /usr/share/bash-completion/bash_completion && _completion_loader aisix; complete -p aisix')" ] || fail "bash completes nothing"
ok "man pages and completion are found"

# --- a Cloud, an upstream, a bundle
cat >/root/resources.yaml <<R
environments:
  $environment:
    provider_keys: {main: {display_name: main, provider: openai, api_key: sk-upstream, api_base: "http://127.0.0.1:8081/v1"}}
    models: {m-1: {display_name: gpt-demo, provider: openai, model_name: small-1, provider_key_id: main}}
    api_keys: {k-1: {key: sk-demo, allowed_models: ["*"]}}
    budgets: {k-1: {allow: true}}
R
systemd-run --quiet --unit=cloud "$given/aisix-cloud" serve --data /root/cloud --resources /root/resources.yaml
systemd-run --quiet --unit=upstream "$given/aisix-upstream"
until_true 60 curl -sS -o /dev/null "$view/environments" 2>/dev/null || fail "aisix-cloud does not start"
issue /root/bundle
install -m 600 -o aisix /root/bundle/{client.crt,client.key,ca.crt} /etc/aisix/mtls/
cat >>/etc/aisix/aisix.env <<'V'
AISIX_MANAGED__CP_BASE_URL=https://127.0.0.1:7944
AISIX_SHUTDOWN__MIN_DRAIN_SECS=0
V
systemctl enable --quiet --now aisix || fail "systemctl enable --now aisix"
serves "a caller"
until_true 60 aisix doctor >/tmp/doctor 2>&1 || fail "the doctor finds something: $(cat /tmp/doctor)"
ok "the doctor finds nothing"

# --- other versions
becomes "$other_package" "$other" upgrade

before=$(in_force)
aisix rotate >/dev/null || fail "aisix rotate"
rotated() { [ "$(in_force)" != "$before" ] && serials | grep -q "$(in_force)"; }
until_true 60 rotated || fail "the certificate is still the one before"
serves "with the certificate that the Cloud has renewed"
issue /root/next
for file in client.key client.crt ca.crt; do
    install -m 600 -o aisix /root/next/$file /etc/aisix/mtls/.new && mv /etc/aisix/mtls/.new /etc/aisix/mtls/$file
done
replaced() { [ "$(in_force)" = "$(bundle_of /root/next/client.crt)" ] && serials | grep -q "$(in_force)"; }
until_true 60 replaced || fail "the bundle that was put into /etc/aisix/mtls is not in force: $(aisix status)"
serves "with the bundle that was put over the one before"

becomes "$package" "$version" downgrade

# --- what does not take over does not come into force, and fails nothing
pid=$(shown MainPID)
cp -p /etc/aisix/config.managed.yaml /root/
echo 'no_such_key: true' >>/etc/aisix/config.managed.yaml
said=$(install_package "$kind" "$other_package" 2>&1) || fail "a gateway that refuses fails the installation: $said"
grep -q 'serves on with the programs it was started with' <<<"$said" || fail "it does not say that the gateway refuses: $said"
if [ "$(shown MainPID)" != "$pid" ] || ! status_is .version "$version"; then fail "it is of another version, or another process"; fi
cp -p /root/config.managed.yaml /etc/aisix/
serves "after it has refused an upgrade"
aisix upgrade >/dev/null || fail "aisix upgrade, with the configuration repaired"
until_true 60 status_is .version "$other" || fail "it is still of version $(status .version)"
ok "it takes over when that is repaired"

# --- a gateway that was stopped stays so
systemctl stop aisix
install_package "$kind" "$package" >/tmp/said 2>&1 || fail "no installation over a stopped gateway: $(cat /tmp/said)"
[ "$(shown ActiveState)" = inactive ] || fail "a gateway that was stopped is started by an upgrade"
ok "an upgrade does not start a gateway that was stopped"
systemctl start aisix
serves "when it is started again"

# --- removed, and installed again
remove_package "$kind" >/tmp/said 2>&1 || fail "it is not removed: $(cat /tmp/said)"
if [ -e /usr/bin/aisix ] || [ -e /usr/libexec/aisix ]; then fail "the programs are still there"; fi
for name in aisix aisix-worker; do
    if pgrep -ax $name >/tmp/left; then fail "a process is left: $(cat /tmp/left)"; fi
done
[ -e /var/lib/aisix/mtls/client.crt ] || fail "the state is gone: $(ls -R /var/lib/aisix)"
grep -q CP_BASE_URL=https /etc/aisix/aisix.env || fail "the configuration is gone: $(ls -R /etc/aisix)"
[ -z "$(systemctl list-units --failed --no-legend --plain 'aisix*')" ] || fail "$(systemctl list-units --failed)"
ok "removed: no process, state and configuration kept"
# From its state alone.
rm /etc/aisix/mtls/*
printf 'AISIX_MANAGED__CP_%s_FILE=\n' CERT KEY CA >>/etc/aisix/aisix.env
install_package "$kind" "$other_package" >/tmp/said 2>&1 || fail "it is not installed again: $(cat /tmp/said)"
grep -q 'not started yet' /tmp/said && fail "it does not start, though its state has a bundle: $(cat /tmp/said)"
systemctl is-enabled --quiet aisix || fail "it is not enabled"
serves "from its state when it comes back"

# --- purged
cp /root/bundle/client.crt /etc/aisix/mtls/
case $kind in
deb) dpkg --purge aisix >/tmp/said 2>&1 </dev/null || fail "it is not purged: $(cat /tmp/said)" ;;
rpm)
    remove_package rpm >/tmp/said 2>&1
    grep -q 'To be rid of them: rm -r /var/lib/aisix /etc/aisix' /tmp/said || fail "it does not say what is left: $(cat /tmp/said)"
    rm -r /var/lib/aisix /etc/aisix/aisix.env
    ;;
esac
for path in /var/lib/aisix /etc/aisix/aisix.env; do
    [ ! -e $path ] || fail "something is left: $(ls -R /var/lib/aisix /etc/aisix)"
done
[ ! -L /etc/systemd/system/multi-user.target.wants/aisix.service ] || fail "it is still enabled"
[ "$kind" = rpm ] || [ ! -e /run/aisix ] || fail "something is left: $(ls -R /run/aisix)"
[ -e /etc/aisix/mtls/client.crt ] || fail "the operator's bundle is gone"
[ "$(systemctl list-unit-files --no-legend 'aisix*')" = "" ] || fail "units are left: $(systemctl list-unit-files 'aisix*')"
ok "purged: state, runtime folder and configuration are gone, the operator's bundle is not"
