#!/bin/sh
# build.sh VERSION FOLDER: the rpm of the programs in PROGRAMS, into a folder.
set -eu
umask 022
folder=$(realpath "$2")
cd "$(dirname "$0")/../.."
version=$(echo "$1" | tr - '~')
architecture=$(packaging/architecture.sh rpm)
SOURCE_DATE_EPOCH=$(packaging/date.sh)
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

packaging/stage.sh "$work/tree"
mkdir -p "$work/tree/usr/share/licenses/aisix"
install -m 644 LICENSE "$work/tree/usr/share/licenses/aisix/LICENSE"

# A per cent sign would begin a macro.
for script in pre post preun postun; do packaging/script.sh "packaging/rpm/$script" | sed 's/%/%%/g' >"$work/$script"; done
date=$(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')
sed -e "s/@VERSION@/$version/" -e "s/@DATE@/$date/" \
    -e "/^#PRE#\$/{r $work/pre" -e 'd}' -e "/^#POST#\$/{r $work/post" -e 'd}' \
    -e "/^#PREUN#\$/{r $work/preun" -e 'd}' -e "/^#POSTUN#\$/{r $work/postun" -e 'd}' \
    packaging/rpm/aisix.spec.in >"$work/aisix.spec"
# No setting of this user's, no database of this machine's.
HOME=$work LC_ALL=C TZ=UTC rpmbuild --quiet --target "$architecture-linux" --define "_topdir $work/top" --define "tree $work/tree" \
    --define "_dbpath $work/db" --define "_tmppath $work" -bb "$work/aisix.spec"
mv "$work/top/RPMS/$architecture/aisix-$version-1.$architecture.rpm" "$folder/"
