# shellcheck shell=bash
# What the scripts inside share: how each kind of package is installed and removed, and how a failure is told.

fail() { echo "FAILED  $*" >&2; exit 1; }
ok() { echo "ok      $*"; }

# Polls until it is so; SECONDS is a limit for what hangs.
until_true() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}

# No answer to a question: an unchanged file of the configuration must lead to none. The database of rpm is empty here.
install_package() { # deb|rpm PACKAGE
    case $1 in
    deb) DEBIAN_FRONTEND=noninteractive dpkg --install "$2" </dev/null ;;
    rpm) rpm --upgrade --oldpackage --replacepkgs --nodeps "$2" </dev/null ;;
    esac
}

remove_package() { # deb|rpm
    case $1 in
    deb) dpkg --remove aisix </dev/null ;;
    rpm) rpm --erase --nodeps aisix </dev/null ;;
    esac
}

is_as_packaged() { # deb|rpm [FILE-OF-THE-CONFIGURATION-THAT-WAS-CHANGED]
    local found
    case $1 in
    deb) found=$(dpkg --audit; dpkg --verify aisix) ;;
    rpm) found=$(rpm --verify --nodeps aisix || true) ;;
    esac
    found=$(grep -v " c ${2:-nothing}\$" <<<"$found" || true)
    [ -z "$found" ] || fail "the files are not those of the package: $found"
    ok "the files are those of the package"
}

says_what_is_next() { # OUTPUT
    local lines
    lines=$(grep -c -e 'aisix is not started yet' -e 'set AISIX_MANAGED__CP_BASE_URL=' -e 'systemctl enable --now aisix' <<<"$1" || true)
    [ "$lines" = 3 ] || fail "it does not say in three lines what is next, but: $1"
    ok "it says in three lines what is next"
}

users_are_there() {
    local user
    for user in aisix aisix-worker aisix-egress aisix-keys aisix-status aisix-cache aisix-export; do
        { getent group "$user" && getent passwd "$user"; } >/dev/null || fail "there is no user $user, or no group"
    done
    for user in aisix-worker aisix-egress aisix-keys aisix-status aisix-cache aisix-export; do
        getent passwd "$user" | grep -q ':/usr/sbin/nologin$' || fail "there is no user $user, or somebody may log in as it"
    done
    ok "the users are there"
}

files_are_owned() {
    [ "$(stat -c '%a %U %G' /etc/aisix/mtls)" = '750 root aisix' ] || fail "/etc/aisix/mtls is $(stat -c '%a %U %G' /etc/aisix/mtls)"
    [ "$(stat -c '%a %U %G' /etc/aisix/aisix.env)" = '600 root root' ] || fail "/etc/aisix/aisix.env is $(stat -c '%a %U %G' /etc/aisix/aisix.env)"
    ok "the bundle's folder is for root and the gateway"
}
