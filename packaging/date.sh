#!/bin/sh
# The date that everything in the packages has, in seconds since 1970: SOURCE_DATE_EPOCH, else that of the last commit.
set -eu
cd "$(dirname "$0")/.."
if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
    echo "$SOURCE_DATE_EPOCH"
else
    git log -1 --format=%ct 2>/dev/null || { echo "set SOURCE_DATE_EPOCH: this is no git checkout" >&2; exit 1; }
fi
