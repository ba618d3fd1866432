#!/bin/bash
# The unit, its socket and its drop-ins under a real systemd, in a clean Debian 12: verified, exposed no more than promised,
# and under load through reload, restart, stop, upgrade, kill -9 and watchdog. Needs root.
# Usage: tests/system/unit.sh [FOLDER-OF-PROGRAMS [FOLDER-OF-TEST-PROGRAMS [PART...]]]: target/programs, target/debug and all parts.
set -euo pipefail

here=$(realpath "$(dirname "$0")")
tree=$(realpath "$here/../..")
programs=$(realpath "${1:-$tree/target/programs}")
tools=$(realpath "${2:-$tree/target/debug}")
for program in "$programs/aisix" "$programs/aisix-worker" "$tools/aisix-cloud" "$tools/aisix-upstream"; do
    [ -x "$program" ] || { echo "$0: $program is missing; try: make dist programs" >&2; exit 1; }
done

# shellcheck source=tests/system/machine.sh
. "$here/machine.sh"
machine_start
machine_copy "$programs/aisix" "$programs/aisix-worker" /root/programs
machine_copy "$tools/aisix-cloud" "$tools/aisix-upstream" /root/tools
machine_copy "$tree/systemd" "$tree/packaging" "$here/unit" /root
MACHINE_DEADLINE=1200 machine_run bash /root/unit/all.sh "${@:3}"
