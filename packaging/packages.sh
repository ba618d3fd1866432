#!/bin/sh
# All packages into target/packages, from the programs that packaging/programs.sh has put into target/programs:
#
#   aisix_VERSION_amd64.deb  aisix-VERSION-1.x86_64.rpm   the same files, each with the customs of its distributions
#   aisix-VERSION-image.tar                               the container image, for `docker load` and `podman load`
#   aisix-VERSION.cdx.json                                bill of materials of the two programs (CycloneDX)
#   aisix-VERSION-notices.txt                             licences of the libraries in them, also within deb and rpm
#   SHA256SUMS                                            of all that is there
#
# Same input, same bytes. For tests, variables name other input: PACKAGE_VERSION, PROGRAMS (folder of the programs), PACKAGES (where to);
# IMAGE=no leaves the image out.
set -eu
cd "$(dirname "$0")/.."

for tool in dpkg-deb rpmbuild python3; do
    command -v $tool >/dev/null || { echo "$tool is missing; install it and try again: sudo apt-get install dpkg rpm python3" >&2; exit 1; }
done

PROGRAMS=$(realpath "${PROGRAMS:-target/programs}")
built=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
version=${PACKAGE_VERSION:-$built}
folder=${PACKAGES:-target/packages}
SOURCE_DATE_EPOCH=$(packaging/date.sh)
export PROGRAMS SOURCE_DATE_EPOCH

for program in aisix aisix-worker; do
    says=$("$PROGRAMS/$program" --version)
    case $says in
    *" $version" | *" $version"[+\ -]*) ;;
    *) echo "$PROGRAMS/$program says \"$says\" and not version $version; make it anew with: packaging/programs.sh" >&2; exit 1 ;;
    esac
done

# Nothing of an earlier version stays.
rm -rf "$folder.new"
mkdir -p "$folder.new"
python3 packaging/bill.py "$version" >"$folder.new/aisix-$version.cdx.json"
NOTICES=$(realpath "$folder.new")/aisix-$version-notices.txt
python3 packaging/notices.py "$folder.new/aisix-$version.cdx.json" >"$NOTICES"
export NOTICES
packaging/deb/build.sh "$version" "$folder.new"
packaging/rpm/build.sh "$version" "$folder.new"
if [ "${IMAGE:-yes}" = yes ]; then
    packaging/container/build.sh "$PROGRAMS" "$(realpath "$folder.new")/aisix-$version-image.tar"
fi
chmod 644 "$folder.new"/*
(cd "$folder.new" && sha256sum -- * >SHA256SUMS && chmod 644 SHA256SUMS)
rm -rf "$folder"
mv "$folder.new" "$folder"
ls -l "$folder"
