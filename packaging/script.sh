#!/bin/sh
# script.sh FILE: a script of a package, with what both packages have in common (life.sh) in its place, to standard output.
set -eu
script=$(realpath "$1")
cd "$(dirname "$0")"
users=$(grep -Ev '^[[:space:]]*(#|$)' ../systemd/aisix.sysusers.conf)
case $users in *"'"*) echo "systemd/aisix.sysusers.conf must have no single quote: it becomes a text of a script" >&2; exit 1 ;; esac
export users
awk '
    function common(line) {
        while ((getline line <"life.sh") > 0) {
            if (line == "users='\''@USERS@'\''") line = "users='\''" ENVIRON["users"] "'\''"
            print line
        }
    }
    /^#LIFE#$/ { common(); next }
    { print }
' "$script"
