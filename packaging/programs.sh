#!/bin/sh
# The programs of the packages, into target/programs: linked statically, so that they run on every distribution and in an empty
# image, optimised as a whole, and the same bytes wherever they are built from the same commit with the same toolchain.
set -eu
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
cargo_home=${CARGO_HOME:-$HOME/.cargo}
target=${CARGO_TARGET_DIR:-$PWD/target}

# No path of this machine gets into the programs, nor does its clock.
remap="--remap-path-prefix=$target=/target --remap-path-prefix=$PWD=/aisix --remap-path-prefix=$cargo_home=/cargo"
# Looked up by name, as the crate does by default, no function of a static program is found; it would then open /dev/urandom,
# which no worker may.
random='--cfg getrandom_backend="linux_getrandom"'
variable=CARGO_TARGET_$(echo "$host" | tr 'a-z-' 'A-Z_')_RUSTFLAGS
export "$variable=-C target-feature=+crt-static $random $remap"
export CFLAGS="-ffile-prefix-map=$target=/target -ffile-prefix-map=$cargo_home=/cargo"
# Nothing in them needs a date; with that of the commit, what looks at it would be compiled anew with each.
export SOURCE_DATE_EPOCH=1 CARGO_INCREMENTAL=0

# One by one, so that the features of one are not those of the other. Naming the target keeps these flags away from what
# runs while building.
cargo build --profile dist --locked --target "$host" -p supervisor
cargo build --profile dist --locked --target "$host" -p worker --bin aisix-worker
mkdir -p target/programs
for name in aisix aisix-worker; do
    strip --strip-all -o "target/programs/$name.new" "$target/$host/dist/$name"
    mv "target/programs/$name.new" "target/programs/$name"
done
