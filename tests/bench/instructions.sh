#!/bin/bash
# What a request costs a proxy worker, in instructions, against the budget in instructions.txt. Instructions, not time: they are the
# same on a busy machine. A figure that is more than 2 % off, in either direction, fails: what was gained is written down too.
#
# instructions.sh [--update]
set -euo pipefail
cd "$(dirname "$0")/../.."

budget=tests/bench/instructions.txt
program=${CARGO_TARGET_DIR:-target}/release/examples/request_cost
cargo build --release --locked -p worker --example request_cost

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Instructions of the first thread, which is the worker's, for so many requests.
count() {
    valgrind --tool=callgrind --separate-threads=yes --callgrind-out-file="$work/$1.$2" "$program" "$1" "$2" \
        2>"$work/log" >&2 || { cat "$work/log" >&2; exit 1; }
    sed -n 's/^\(totals\|summary\): //p' "$work/$1.$2-01" | head -1
}

measured=$work/measured
for mode in governed off; do
    few=$(count "$mode" 500) many=$(count "$mode" 2500)
    echo "$mode $(((many - few) / 2000))" >>"$measured"
done

if [ "${1-}" = --update ]; then
    cp "$measured" "$budget"
    cat "$budget"
    exit
fi
failed=0
while read -r mode instructions; do
    allowed=$(awk -v mode="$mode" '$1 == mode { print $2 }' "$budget")
    per_mille=$(((instructions - allowed) * 1000 / allowed))
    echo "$mode: $instructions instructions per request, budget $allowed ($per_mille per mille off)"
    if [ "${per_mille#-}" -gt 20 ]; then
        failed=1
    fi
done <"$measured"
if [ "$failed" = 1 ]; then
    echo "a request costs another number of instructions than $budget says. If that is meant: tests/bench/instructions.sh --update" >&2
    exit 1
fi
