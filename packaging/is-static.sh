#!/bin/sh
# is-static.sh PROGRAM: fails, and says why, where a program needs a loader or libraries.
set -eu
headers=$(LC_ALL=C readelf -lW "$1")
case $headers in
*INTERP*)
    echo "$1 is linked dynamically, and the packages bring no library: \`make dist\` makes one that fits" >&2
    exit 1
    ;;
esac
