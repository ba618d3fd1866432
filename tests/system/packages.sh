#!/bin/bash
# The packages: made twice they are the same bytes, the distributions' own checks find nothing, the bill of materials is one, and
# on a clean Debian both live their whole life: in a tree where no systemd runs, then booted, connected to a Cloud, upgraded under
# load, rotated, downgraded, removed, installed again, purged. Needs root and the programs that packaging/programs.sh makes.
# Usage: tests/system/packages.sh FOLDER-OF-TEST-PROGRAMS [checks|deb|rpm ...]
set -euo pipefail

programs=$(realpath "${1:-target/debug}")
shift || true
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/machine.sh
. tests/system/machine.sh
# shellcheck source=tests/system/packages_checks.sh
. tests/system/packages_checks.sh

[ "$(id -u)" = 0 ] || machine_fail "only root may install packages; try again with sudo"
for program in aisix-cloud aisix-upstream; do
    [ -x "$programs/$program" ] || machine_fail "$programs/$program is missing; make it with: make programs"
done
machine_need rpmbuild rpm
machine_need lintian lintian
machine_need rpmlint rpmlint
[ -x target/programs/aisix ] || machine_fail "target/programs/aisix is missing; make it with: make dist"

work=$(mktemp -d /tmp/aisix-packages.XXXXXX)
# machine_start sets a trap of its own; what is cleared away there is less than here.
finish() { machine_end; rm -rf --one-file-system "$work"; }
trap finish EXIT

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# As long, so that it can take the other's place in the programs.
other=${version%.*.*}.9.${version##*.}
# nspawn of this age knows no Landlock, and the doctor would rightly say that the workers lack it.
# shellcheck disable=SC2034
MACHINE_OPTIONS=(--system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self")
wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(checks deb rpm)

echo "packages of $version, and of the same programs as $other"
mkdir "$work/other"
for program in aisix aisix-worker; do
    python3 tests/system/other_version.py "target/programs/$program" "$version" "$other" "$work/other/$program"
done
made=$work/made
export IMAGE=no
PACKAGES=$made packaging/packages.sh >/dev/null
PACKAGE_VERSION=$other PROGRAMS=$work/other PACKAGES=$work/packages packaging/packages.sh >/dev/null

for what in "${wanted[@]}"; do
    if [ "$what" = checks ]; then
        packages_are_reproducible
        packages_are_summed
        packages_are_linted
        bill_is_valid
        continue
    fi
    old=$(realpath "$made"/*."$what")
    new=$(realpath "$work/packages"/*."$what")
    for kind in with without; do
        echo "$what: in a tree where no systemd runs, $kind systemd-sysusers"
        in_a_tree "$what" "$kind" "$old"
    done
    echo "$what: on a machine"
    machine_start
    trap finish EXIT
    machine_copy tests/system/packages_tools.sh /root/scripts
    machine_copy "$old" "$new" "$programs/aisix-cloud" "$programs/aisix-upstream" tests/system/packages.lua /root/given
    machine_script tests/system/packages_within.sh "$what" "/root/given/$(basename "$old")" "/root/given/$(basename "$new")" "$version" "$other"
    machine_end
    trap finish EXIT
done
