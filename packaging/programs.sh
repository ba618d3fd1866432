#!/bin/sh
# The programs of the packages, into target/programs: linked statically, so that they run on every distribution and in an empty
# image, optimised as a whole, and the same bytes wherever they are built from the same commit with the same toolchain.
set -eu
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
cargo_home=${CARGO_HOME:-$HOME/.cargo}
target=${CARGO_TARGET_DIR:-$PWD/target}

# Nobody else's flags, which cargo would prefer to ours. Naming the target below keeps ours away from what runs while building.
unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS
# No path of this machine gets into the programs. Flags are told apart by a sign that no path has.
flags=$(printf '%s\037' -Ctarget-feature=+crt-static)
# The crate getrandom looks for libc's function by its name at run time, finds none in a static program, and would open
# /dev/urandom, which workers may not.
flags=$flags$(printf '%s\037' --cfg 'getrandom_backend="linux_getrandom"')
flags=$flags$(printf -- '--remap-path-prefix=%s\037' "$target=/target" "$PWD=/aisix" "$cargo_home=/cargo")
export CARGO_ENCODED_RUSTFLAGS="${flags%?}"
export CC_SHELL_ESCAPED_FLAGS=1 CFLAGS="'-ffile-prefix-map=$target=/target' '-ffile-prefix-map=$cargo_home=/cargo'"
# Nothing in them needs a date; with that of the commit, what looks at it would be compiled anew with each.
export SOURCE_DATE_EPOCH=1 CARGO_INCREMENTAL=0

# One by one, so that the features of one are not those of the other.
cargo build --profile dist --locked --target "$host" -p supervisor
cargo build --profile dist --locked --target "$host" -p worker --bin aisix-worker
mkdir -p target/programs
for name in aisix aisix-worker; do
    strip --strip-all -o "target/programs/$name.new" "$target/$host/dist/$name"
    mv "target/programs/$name.new" "target/programs/$name"
done
