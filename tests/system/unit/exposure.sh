# shellcheck shell=bash
# Units are clean, with each drop-in, and expose no more than is promised.

units=/usr/lib/systemd/system
clean() { # FILE...: nothing is said at all
    local said
    if ! said=$(systemd-analyze verify "$@" 2>&1) || [ -n "$said" ]; then
        echo "$said"
        return 1
    fi
}
exposed_at_most() { # TENTHS FILE
    local said
    said=$(systemd-analyze security --offline=true --no-pager --threshold="$1" "$2" 2>&1) || { echo "$said"; return 1; }
    note "${said##*$'\n'}"
}
check "the unit is verified" clean $units/aisix.service
check "the socket is verified" clean $units/aisix.socket
for example in /root/systemd/examples/*.conf; do
    name=$(basename "$example" .conf)
    unit=aisix.service
    grep -q '^\[Socket\]' "$example" && unit=aisix.socket
    drop_in $unit example <"$example"
    check "it is verified with $name.conf" clean $units/$unit
    rm /etc/systemd/system/$unit.d/example.conf
done
systemctl daemon-reload
# One figure for all: the whole file, as if it were written by hand.
merged() { # EXAMPLE: the unit with a drop-in, in a file
    { cat $units/aisix.service; sed -n '/^\[Service\]/,$p' "/root/systemd/examples/$1.conf"; } >"/tmp/$1.service"
    echo "/tmp/$1.service"
}
check "exposure with a user for each role is at most 1.8" exposed_at_most 18 $units/aisix.service
check "exposure with a single user is at most 1.1" exposed_at_most 11 "$(merged non-root)"
check "exposure with credentials is no higher" exposed_at_most 18 "$(merged credentials)"
