#!/bin/bash
# The gateway's image, without any registry: target/programs/ -> target/packages/aisix-VERSION-image.tar, the same bytes each time.
#
#   build.sh [PROGRAMS [RESULT]]      PROGRAMS has aisix and aisix-worker, linked statically (target/programs, by `make dist`)
#
# The archive is Docker's, which `docker load` of every age and `podman load` take; the OCI form, which Docker takes since 25
# only, has no health check. Needs buildah, as root or as a user with subordinate ids.
set -euo pipefail
cd "$(dirname "$0")/../.."

programs=${1:-target/programs}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
result=${2:-target/packages/aisix-$version-image.tar}
epoch=$(packaging/date.sh)
revision=${AISIX_REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}

for program in aisix aisix-worker; do
    [ -x "$programs/$program" ] || { echo "$programs/$program is missing: \`make dist\` makes it" >&2; exit 1; }
    packaging/is-static.sh "$programs/$program"
done
if ! { command -v buildah && command -v python3; } >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "buildah or python3 is missing; install them and try again: sudo apt-get install buildah python3" >&2
        exit 1
    fi
    echo "installing buildah"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends buildah python3
fi

mkdir -p target/packages
result=$(realpath -m "$result")
work=$(mktemp -d "$PWD/target/packages/.image.XXXXXX")
# A storage of its own: neither images nor settings of the machine are touched. What it holds may belong to subordinate ids.
build() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
finish() {
    if [ "$(id -u)" = 0 ]; then rm -rf "$work"; else buildah unshare rm -rf "$work"; fi
}
trap finish EXIT

# What is in the image. Everything is root's and read-only to the gateway, but for the folders that it writes.
root=$work/root
install -d -m 0755 "$root"/{etc/aisix/mtls,etc/ssl/certs,usr/bin,usr/libexec/aisix,var/lib}
install -d -m 0770 "$root"/{var/lib/aisix,run/aisix}
install -m 0755 "$programs/aisix" "$root/usr/bin/aisix"
install -m 0755 "$programs/aisix-worker" "$root/usr/libexec/aisix/aisix-worker"
install -m 0644 packaging/config.managed.yaml "$root/etc/aisix/config.managed.yaml"
packaging/container/trust.sh "$work" >"$root/etc/ssl/certs/ca-certificates.crt"
chmod 0644 "$root/etc/ssl/certs/ca-certificates.crt"

mkdir "$work/context"
archive=(tar --format=ustar --sort=name --mtime="@$epoch" --numeric-owner -C "$root")
"${archive[@]}" --owner=0 --group=0 --exclude=./var/lib/aisix --exclude=./run/aisix -cf "$work/context/root.tar" .
"${archive[@]}" --owner=10001 --group=0 -rf "$work/context/root.tar" ./var/lib/aisix ./run/aisix

build bud -q --isolation chroot --format docker --timestamp "$epoch" --build-arg VERSION="$version" --build-arg REVISION="$revision" \
    -t "aisix:$version" -f packaging/container/Containerfile "$work/context" >"$work/id"
build push -q "$(cat "$work/id")" "docker-archive:$work/image.tar:aisix:$version"

mkdir "$work/image"
tar -C "$work/image" -xf "$work/image.tar"
id=$(packaging/container/archive.py "$work/image" "aisix:$version" "$epoch" "$work/result.tar")
mv "$work/result.tar" "$result"
echo "$result: $(du -h --apparent-size "$result" | cut -f1), image $id"
