# shellcheck shell=bash
# Drop-ins and the socket unit: each serves, and its status says what it is.

use() { # EXAMPLE [UNIT]
    local unit=${2:-aisix.service}
    drop_in "$unit" "$1" <"/root/systemd/examples/$1.conf"
}
forget() { # EXAMPLE [UNIT]
    rm "/etc/systemd/system/${2:-aisix.service}.d/$1.conf"
    systemctl daemon-reload
}

systemctl stop aisix
use credentials
# As root's own files: only the service manager reads them.
chgrp root /etc/aisix/mtls/* && chmod 600 /etc/aisix/mtls/*
check "credentials: it starts" restart
check "credentials: it serves" serves
check "credentials: the bundle is supplied by them" status_is .identity.origin supplied
check "credentials: it reloads" systemctl reload aisix
chgrp aisix /etc/aisix/mtls/* && chmod 640 /etc/aisix/mtls/*
forget credentials

use non-root
check "single user: it starts" restart
check "single user: it serves" serves
check "single user: all have one user" status_is '[.workers[].pid] | length > 3' true
same_user() { [ "$(ps -o user= -p "$(status '[.supervisor.pid, .workers[].pid] | join(",")')" | sort -u)" = aisix ]; }
check "single user: every process is of user aisix" same_user
check "single user: the status says so" sh -c "aisix status | grep 'partial' >/dev/null"
check "single user: no capability is left" [ "$(awk '/^Cap(Prm|Eff|Bnd|Amb)/ {print $2}' "/proc/$(shown MainPID)/status" | sort -u)" = 0000000000000000 ]
pid=$(shown MainPID)
check "single user: it reloads" systemctl reload aisix
check "single user: it upgrades" aisix upgrade
check "single user: the process is the same" is MainPID "$pid"
check "single user: it serves after that" serves
forget non-root

use privileged-port aisix.socket
variable AISIX_PROXY__ADDR 0.0.0.0:443
systemctl stop aisix
check "socket: it listens on port 443" systemctl start aisix.socket
check "socket: the gateway starts" restart
# shellcheck disable=SC2034 # for common.sh
url=http://127.0.0.1:443
check "socket: it serves there" serves
check "socket: without the capability" [ $(((0x$(awk '/^CapBnd/ {print $2}' "/proc/$(shown MainPID)/status") >> 10) & 1)) = 0 ]
check "socket: stop" systemctl stop aisix.service
# The connection waits in the kernel, and starts the gateway.
check "socket: a request starts it" serves
check "socket: it is active then" until_true 10 is ActiveState active
systemctl stop aisix.socket aisix
unset url
variable AISIX_PROXY__ADDR
forget privileged-port aisix.socket
check "it is what it was" restart
check "it serves" serves
