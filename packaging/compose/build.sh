#!/bin/bash
# The image of compose.yaml beside the gateway's own: aisix-cloud and aisix-upstream ->
# target/evaluation/aisix-evaluation-VERSION-image.tar
#
#   build.sh [PROGRAMS [RESULT]]      PROGRAMS has both, linked statically; without it they are built
set -euo pipefail
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
programs=${1:-target/evaluation}
result=${2:-target/evaluation/aisix-evaluation-$version-image.tar}
command -v buildah >/dev/null || { echo "buildah is missing; install it and try again: sudo apt-get install buildah" >&2; exit 1; }

if [ $# = 0 ]; then
    host=$(rustc -vV | sed -n 's/^host: //p')
    # As those of the packages, see packaging/programs.sh.
    unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS
    CARGO_ENCODED_RUSTFLAGS=$(printf '%s\037%s\037%s' -Ctarget-feature=+crt-static --cfg 'getrandom_backend="linux_getrandom"')
    export CARGO_ENCODED_RUSTFLAGS
    cargo build --release --locked --target "$host" -p tests --bin aisix-cloud --bin aisix-upstream
    mkdir -p "$programs"
    for name in aisix-cloud aisix-upstream; do
        strip --strip-all -o "$programs/$name" "target/$host/release/$name"
    done
fi

mkdir -p target/evaluation
result=$(realpath -m "$result")
work=$(mktemp -d "$PWD/target/evaluation/.image.XXXXXX")
build() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
finish() {
    if [ "$(id -u)" = 0 ]; then rm -rf "$work"; else buildah unshare rm -rf "$work"; fi
}
trap finish EXIT
install -d "$work/context/folders/cloud" "$work/context/folders/mtls"
install -m 0755 "$programs/aisix-cloud" "$programs/aisix-upstream" "$work/context/"
build bud -q --isolation chroot --format docker --timestamp "$(packaging/date.sh)" -f packaging/compose/Containerfile \
    "$work/context" >"$work/id"
rm -f "$result"
build push -q "$(cat "$work/id")" "docker-archive:$result:aisix-evaluation:$version"
echo "$result: $(du -h --apparent-size "$result" | cut -f1)"
