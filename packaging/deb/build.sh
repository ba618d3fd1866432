#!/bin/sh
# build.sh VERSION FOLDER: the deb of the programs in PROGRAMS, into a folder.
set -eu
umask 022
folder=$(realpath "$2")
cd "$(dirname "$0")/../.."
# A version before the one it leads to has a hyphen in Cargo's words and a tilde in the packages'.
version=$(echo "$1" | tr - '~')
architecture=$(packaging/architecture.sh deb)
SOURCE_DATE_EPOCH=$(packaging/date.sh)
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree

packaging/stage.sh "$tree"
# Debian's own places.
mkdir -p "$tree/usr/share/zsh/vendor-completions" "$tree/usr/share/lintian/overrides" "$tree/DEBIAN"
mv "$tree/usr/share/zsh/site-functions/_aisix" "$tree/usr/share/zsh/vendor-completions/"
rmdir "$tree/usr/share/zsh/site-functions"
install -m 644 packaging/deb/copyright "$tree/usr/share/doc/aisix/copyright"
install -m 644 packaging/deb/lintian-overrides "$tree/usr/share/lintian/overrides/aisix"
{
    printf 'aisix (%s) stable; urgency=medium\n\n' "$version"
    printf '  * What has changed is told in CHANGELOG.md.gz.\n\n'
    printf ' -- AISIX <packages@aisix.invalid>  %s\n' "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$tree/usr/share/doc/aisix/changelog.gz"

for script in postinst prerm postrm; do
    packaging/script.sh "packaging/deb/$script" >"$tree/DEBIAN/$script"
    chmod 755 "$tree/DEBIAN/$script"
done
install -m 644 packaging/deb/conffiles "$tree/DEBIAN/conffiles"
# In KiB, of what lies in the files: how large a folder is depends on the file system.
size=$(find "$tree" -path "$tree/DEBIAN" -prune -o -type f -printf '%s\n' | awk '{ sum += $1 } END { print int((sum + 1023) / 1024) }')
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" packaging/deb/control >"$tree/DEBIAN/control"
(cd "$tree" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
find "$tree" -depth -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

# One thread: what more of them write depends on their number.
dpkg-deb --root-owner-group --threads-max=1 -Zxz -b "$tree" "$folder/aisix_${version}_$architecture.deb" >/dev/null
