#!/bin/sh
# How the programs of the packages are used, into packaging/pgo: makes them count what they run, lets them serve the traffic
# of tests/bench/train.rs, and merges what they have written. See pgo/README.md.
#
# `profile.sh can-merge` succeeds if what merges is there.
set -eu
cd "$(dirname "$0")/.."

# It must not be older than the LLVM of the compiler. Rust's own comes with `rustup component add llvm-tools`.
llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
merge=$(rustc --print target-libdir)/../bin/llvm-profdata
[ -x "$merge" ] || merge=$(command -v "llvm-profdata-$llvm") || {
    echo "llvm-profdata of LLVM $llvm is missing; install it and try again: sudo apt-get install llvm-$llvm" >&2
    exit 1
}
[ "${1:-}" != can-merge ] || exit 0

host=$(rustc -vV | sed -n 's/^host: //p')
release=$(rustc -vV | sed -n 's/^release: //p')
folder=$PWD/target/profile

# Who sends the traffic, the Cloud and the upstream: as the tests have them.
cargo build --workspace --locked --bins --example train
TRAINING=$folder CARGO_TARGET_DIR=$folder packaging/programs.sh

rm -rf "$folder/raw"
mkdir -p "$folder/raw"
unset LLVM_PROFILE_FILE
# All processes write to one file for each program: that takes one user. Root's programs change theirs unless they cannot.
one_user=
[ "$(id -u)" != 0 ] || one_user="setpriv --bounding-set -setuid,-setgid"
GATEWAY_BIN_DIR=${CARGO_TARGET_DIR:-$PWD/target}/debug $one_user \
    "${CARGO_TARGET_DIR:-$PWD/target}/debug/examples/train" "$folder/programs"

written=$(find "$folder/raw" -name '*.profraw' | wc -l)
[ "$written" = 2 ] || {
    echo "the supervisor and its workers should have written what they counted, each program into one file in $folder/raw, but there are $written; did a worker end before its time?" >&2
    exit 1
}
# Without what was never run: such functions are optimised as ever.
"$merge" merge --sparse -o "$folder/new.profdata" "$folder"/raw/*.profraw
mkdir -p packaging/pgo
rm -f packaging/pgo/*"-$host.profdata"
mv "$folder/new.profdata" "packaging/pgo/rustc-$release-$host.profdata"
ls -l packaging/pgo/*.profdata
