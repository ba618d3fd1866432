#!/bin/sh
# architecture.sh deb|rpm: what this machine's kind is called there.
set -eu
machine=$(uname -m)
case $1:$machine in
rpm:*) echo "$machine" ;;
deb:x86_64) echo amd64 ;;
deb:aarch64) echo arm64 ;;
*) echo "no packages are made for $machine" >&2; exit 1 ;;
esac
