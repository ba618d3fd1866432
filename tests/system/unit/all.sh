#!/bin/bash
# What is tried inside the machine, in order; see unit.sh.
set -uo pipefail
cd /root/unit || exit 1
# shellcheck source=tests/system/unit/common.sh
. ./common.sh

[ $# -gt 0 ] || set -- exposure features load deaths variants
# shellcheck source=tests/system/unit/install.sh
. ./install.sh
for part in "$@"; do
    echo "$part"
    # shellcheck disable=SC1090
    . "./$part.sh" || { echo "FAILED  $part"; failures=$((failures + 1)); }
done

[ $failures = 0 ] || { echo "$failures failed"; journalctl -u aisix --no-pager -o cat | tail -40; }
exit $((failures > 0))
