#!/bin/bash
# packages_in_a_tree.sh deb|rpm PACKAGE: inside a tree in which no systemd runs, as when an image is built; see packages_checks.sh.
set -euo pipefail
# shellcheck source=tests/system/packages_tools.sh
. "$(dirname "$0")/packages_tools.sh"
kind=$1 package=$2

said=$(install_package "$kind" "$package" 2>&1) || fail "it is not installed: $said"
says_what_is_next "$said"
users_are_there
files_are_owned
is_as_packaged "$kind"
/usr/bin/aisix --version >/dev/null || fail "the program does not run"
said=$(install_package "$kind" "$package" 2>&1) || fail "it is not installed a second time: $said"
ok "it can be installed over itself"
[ ! -e /etc/systemd/system/multi-user.target.wants/aisix.service ] || fail "it is enabled"

# With everything there it is enabled for the machine's first boot, and starting is left to that.
said=$(remove_package "$kind" 2>&1) || fail "it is not removed: $said"
[ ! -e /usr/bin/aisix ] || fail "the program is still there after the removal"
mkdir -p -m 750 /etc/aisix/mtls
touch /etc/aisix/mtls/client.crt
# As a configuration manager does, which knows nothing of the file that the package would make.
rm -f /etc/aisix/aisix.env
(umask 077 && echo 'AISIX_MANAGED__CP_BASE_URL=https://127.0.0.1:7944' >/etc/aisix/aisix.env)
said=$(install_package "$kind" "$package" 2>&1) || fail "it is not installed again: $said"
grep -q 'not started yet' <<<"$said" && fail "it says what is next, though everything is there: $said"
[ -L /etc/systemd/system/multi-user.target.wants/aisix.service ] || fail "it is not enabled, though everything is there"
files_are_owned
ok "with everything there it is enabled"
