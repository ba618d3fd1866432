# shellcheck shell=bash
# Words that the other files are written in. Of a pipe, grep reads all: one that ends early (-q) fails what writes to it.

failures=0
check() { # NAME COMMAND...
    local name=$1; shift
    if "$@"; then echo "ok      $name"; else echo "FAILED  $name"; failures=$((failures + 1)); fi
}
not() { ! "$@"; }
note() { echo "        $*"; }
until_true() { # SECONDS COMMAND...
    local end=$((SECONDS + $1)); shift
    until "$@" 2>/dev/null; do [ $SECONDS -lt $end ] || return 1; sleep 0.05; done
}

shown() { systemctl show aisix -p "$1" --value; }
is() { [ "$(shown "$1")" = "$2" ]; }
status() { aisix status --json | jq -er "$1"; }
status_is() { [ "$(status "$1")" = "$2" ]; }
log_has() { journalctl -u aisix --no-pager -o cat --since "$since" | grep -- "$1" >/dev/null; }
# What is looked for in the log from here on.
mark() { since=$(date +'%F %T'); sleep 1; }
since=2000-01-01

key="Authorization: Bearer sk-demo"
question() { # MODEL
    echo "{\"model\":\"$1\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"one two three four\"}]}"
}
ask() { # MODEL [CURL-ARGUMENT...]
    local model=$1; shift
    curl -sS -N -m 60 "$@" "${url:-http://127.0.0.1:3000}/v1/chat/completions" -H "$key" -H 'Content-Type: application/json' -d "$(question "$model")"
}
serves() { ask fast | grep '^data: \[DONE\]' >/dev/null; }
ready() { until_true 30 status_is .ready true; }

# A drop-in of this name for the tests, from standard input.
drop_in() { # UNIT NAME
    mkdir -p "/etc/systemd/system/$1.d"
    cat >"/etc/systemd/system/$1.d/$2.conf"
    systemctl daemon-reload
}
# A variable of aisix.env, for the tests; empty to take it away.
variable() { # NAME [VALUE]
    sed -i "/^$1=/d" /etc/aisix/aisix.env
    [ -z "${2:-}" ] || echo "$1=$2" >>/etc/aisix/aisix.env
}
restart() {
    systemctl reset-failed aisix 2>/dev/null
    systemctl restart aisix && ready
}
