#!/bin/sh
# promtool.sh FOLDER: the one program of Debian's package `prometheus` that the tests need, into FOLDER. The package is
# unpacked, not installed: an installed one would start a service.
set -eu

folder=$1
command -v apt-get >/dev/null || {
  echo "promtool is missing; put it into PATH (it comes with Prometheus) and try again" >&2
  exit 1
}
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
echo "unpacking promtool"
if [ "$(id -u)" = 0 ]; then apt-get update -qq; fi
(cd "$work" && apt-get download -qq prometheus)
dpkg-deb -x "$work"/prometheus_*.deb "$work/files"
# At once or not at all.
cp "$work/files/usr/bin/promtool" "$folder/promtool.new"
mv "$folder/promtool.new" "$folder/promtool"
