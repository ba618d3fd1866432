#!/bin/sh
# stage.sh FOLDER: lays into an empty folder what the deb and the rpm have in common, every file with a fixed mode and date.
# The programs come from PROGRAMS (target/programs), the notices of the libraries in them from NOTICES. See ../packaging/deb and rpm for what differs.
set -eu
umask 022
folder=$(realpath -m "$1")
cd "$(dirname "$0")/.."
programs=${PROGRAMS:-target/programs}
date=$(packaging/date.sh)

[ ! -e "$folder" ] || [ -z "$(ls -A "$folder")" ] || { echo "$folder is not empty" >&2; exit 1; }
for program in aisix aisix-worker; do
    [ -x "$programs/$program" ] || { echo "$programs/$program is missing; make it with: packaging/programs.sh" >&2; exit 1; }
    packaging/is-static.sh "$programs/$program"
done

put() { # MODE SOURCE TARGET
    mkdir -p "$folder$(dirname "$3")"
    install -m "$1" "$2" "$folder$3"
}
press() { # SOURCE TARGET
    mkdir -p "$folder$(dirname "$2")"
    gzip -9nc "$1" >"$folder$2.gz"
}

put 755 "$programs/aisix" /usr/bin/aisix
put 755 "$programs/aisix-worker" /usr/libexec/aisix/aisix-worker

put 644 packaging/config.managed.yaml /etc/aisix/config.managed.yaml
# Copied to /etc/aisix by the scripts where there is none: it is the operator's from then on.
put 644 packaging/aisix.env /usr/share/aisix/aisix.env
mkdir -m 750 "$folder/etc/aisix/mtls"

for unit in systemd/*.service systemd/*.socket; do put 644 "$unit" "/usr/lib/systemd/system/$(basename "$unit")"; done
put 644 systemd/aisix.sysusers.conf /usr/lib/sysusers.d/aisix.conf
put 644 systemd/aisix.tmpfiles.conf /usr/lib/tmpfiles.d/aisix.conf

for page in packaging/man/*.[1-9]; do press "$page" "/usr/share/man/man${page##*.}/$(basename "$page")"; done
put 644 packaging/completions/aisix.bash /usr/share/bash-completion/completions/aisix
put 644 packaging/completions/_aisix /usr/share/zsh/site-functions/_aisix
put 644 packaging/completions/aisix.fish /usr/share/fish/vendor_completions.d/aisix.fish

put 644 packaging/grafana/aisix.json /usr/share/aisix/grafana/aisix.json
put 644 packaging/prometheus/aisix.rules.yaml /usr/share/aisix/prometheus/aisix.rules.yaml
for example in systemd/examples/*; do put 644 "$example" "/usr/share/aisix/examples/systemd/$(basename "$example")"; done

for page in README INSTALL CONFIGURATION METRICS TRAFFIC TROUBLESHOOTING SECURITY UPGRADING; do
    [ ! -e "$page.md" ] || put 644 "$page.md" "/usr/share/doc/aisix/$page.md"
done
press CHANGELOG.md /usr/share/doc/aisix/CHANGELOG.md
press "$NOTICES" /usr/share/doc/aisix/THIRD-PARTY

find "$folder" -depth -exec touch --no-dereference --date="@$date" {} +
