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
# How the programs are used, which the compiler optimises for (pgo/README.md): by this compiler, no other gives functions the
# same names. With TRAINING, a folder, they are made to write that down when they end, and are put there. With PLAIN, a folder,
# they are built without it, for comparison, and are put there. Both want a CARGO_TARGET_DIR of their own.
programs=target/programs
profile=packaging/pgo/rustc-$(rustc -vV | sed -n 's/^release: //p')-$host.profdata
if [ -n "${TRAINING:-}" ]; then
    programs=$TRAINING/programs
    # Whoever optimises the whole comes after what counts, and need not take long here.
    flags=$flags$(printf '%s\037' "-Cprofile-generate=$TRAINING/raw" -Clto=thin)
elif [ -n "${PLAIN:-}" ]; then
    programs=$PLAIN/programs
elif [ ! -e "$profile" ]; then
    echo "there is no $profile: the programs are built without knowing how they are used; \`make profile\` makes it" >&2
elif said=$(echo 'fn main() {}' | rustc --emit=llvm-ir "-Cprofile-use=$PWD/$profile" -o /dev/null - 2>&1 | head -n 1) && [ -z "$said" ]; then
    # Named by its content: cargo looks at the flags alone to see whether libraries have to be compiled anew.
    content=$(sha256sum "$profile")
    mkdir -p "$target/pgo"
    known=$(realpath "$target/pgo")/${content%% *}.profdata
    [ -e "$known" ] || { cp "$profile" "$known.new" && mv "$known.new" "$known"; }
    # Functions that have changed since are optimised as ever; that is nothing to warn of.
    flags=$flags$(printf '%s\037' "-Cprofile-use=$known" -Cllvm-args=-no-pgo-warn-mismatch)
else
    echo "this compiler does not take $profile: the programs are built without knowing how they are used: $said" >&2
fi
export CARGO_ENCODED_RUSTFLAGS="${flags%?}"
export CC_SHELL_ESCAPED_FLAGS=1 CFLAGS="'-ffile-prefix-map=$target=/target' '-ffile-prefix-map=$cargo_home=/cargo'"
# Nothing in them needs a date; with that of the commit, what looks at it would be compiled anew with each.
export SOURCE_DATE_EPOCH=1 CARGO_INCREMENTAL=0

# One by one, so that the features of one are not those of the other.
cargo build --profile dist --locked --target "$host" -p supervisor
cargo build --profile dist --locked --target "$host" -p worker --bin aisix-worker
mkdir -p "$programs"
for name in aisix aisix-worker; do
    strip --strip-all -o "$programs/$name.new" "$target/$host/dist/$name"
    mv "$programs/$name.new" "$programs/$name"
done
