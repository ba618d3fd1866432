#!/bin/sh
# trust.sh FOLDER: the trust store of Debian's package ca-certificates, on standard output; FOLDER is for what it needs
# meanwhile. Not /etc/ssl, where the roots of whoever runs this machine are as well.
set -eu

folder=$1
certificates=/usr/share/ca-certificates/mozilla
if ! [ -d "$certificates" ]; then
    mkdir -p "$folder/trust"
    cd "$folder/trust"
    # As root, and not as the user that apt prefers: nobody else need be able to get into the folder.
    apt-get -o APT::Sandbox::User=root download -qq ca-certificates >&2 || {
        echo "Debian's package ca-certificates is neither installed nor to be had: \`apt-get install ca-certificates\`" >&2
        exit 1
    }
    dpkg-deb -x ca-certificates_*.deb files
    certificates=$folder/trust/files$certificates
fi
# As update-ca-certificates does: one after the other, in the order of their names.
find "$certificates" -name '*.crt' | LC_ALL=C sort | while read -r certificate; do
    cat "$certificate"
    # Some files end without a line feed.
    [ -z "$(tail -c 1 "$certificate")" ] || echo
done
