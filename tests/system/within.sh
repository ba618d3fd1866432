#!/bin/bash
# What is tried inside the container; see systemd.sh. Resources come from a file: there is no network.
set -uo pipefail

failures=0
check() { # NAME COMMAND...
    local name=$1; shift
    if "$@"; then echo "ok      $name"; else echo "FAILED  $name"; failures=$((failures + 1)); fi
}
until_true() { # SECONDS COMMAND...
    local end=$((SECONDS + $1)); shift
    until "$@" 2>/dev/null; do [ $SECONDS -lt $end ] || return 1; sleep 0.05; done
}
shown() { systemctl show aisix -p "$1" --value; }
is() { [ "$(shown "$1")" = "$2" ]; }
alive() { [ "$(curl -s -m 5 -o /dev/null -w '%{http_code}' http://127.0.0.1:3000/livez)" = 200 ]; }
status_has() { shown StatusText | grep -q "$1"; }
log_has() { journalctl -u aisix --no-pager -o cat | grep -q "$1"; }

ip link set lo up 2>/dev/null || true
mkdir -p /etc/aisix /etc/systemd/system/aisix.service.d
install /mnt/aisix /mnt/aisix-worker /usr/bin/
cp /mnt/aisix.service /etc/systemd/system/
printf '_format_version: "1"\nmodels: []\n' >/etc/aisix/resources.yaml
cat >/etc/aisix/config.managed.yaml <<'C'
proxy: {addr: "127.0.0.1:3000", workers: 2}
observability: {metrics: {prometheus: {addr: "127.0.0.1:9090"}}}
shutdown: {min_drain_secs: 0}
resources_file: /etc/aisix/resources.yaml
C
# A quick watchdog, so that the test need not wait for the real one.
printf '[Service]\nWatchdogSec=3s\n' >/etc/systemd/system/aisix.service.d/test.conf
systemctl daemon-reload

check "the unit is verified" systemd-analyze verify /etc/systemd/system/aisix.service
check "it starts, and start returns when it is ready" systemctl start aisix
check "it serves then" alive
check "its status says what it serves" until_true 10 status_has "serving revision"
check "both listeners are stored" is NFileDescriptorStore 2
echo "        exposure: $(systemd-analyze security aisix --no-pager | tail -1)"

# Load over fresh connections through all that follows; every answer but 200 is noted.
(while [ ! -e /tmp/enough ]; do
    code=$(curl -s -m 20 -o /dev/null -w '%{http_code}' http://127.0.0.1:3000/livez)
    echo "$code" >>/tmp/answers
done) &
load=$!
sleep 1

pid=$(shown MainPID)
check "an upgrade is asked for" systemctl kill --signal=USR2 --kill-who=main aisix
check "every worker is new" until_true 20 log_has "upgraded: every worker is new"
check "the process is the same" is MainPID "$pid"
check "it is active" until_true 10 is ActiveState active
check "an upgrade counts as no restart" is NRestarts 0
sleep 4
check "the watchdog is content with the new program" is NRestarts 0

check "restart" systemctl restart aisix
check "listeners come back from the store" log_has "listener taken over from the service manager"
check "it serves after the restart" alive

before=$(shown NRestarts)
kill -9 "$(shown MainPID)"
start=$(date +%s%N)
check "it serves after kill -9" until_true 10 alive
echo "        after $((($(date +%s%N) - start) / 1000000)) ms"
check "systemd has restarted it" until_true 10 is NRestarts $((before + 1))

kill -STOP "$(shown MainPID)"
check "the watchdog ends a supervisor that hangs" until_true 20 is NRestarts $((before + 2))
check "it serves after that" until_true 10 alive

touch /tmp/enough; wait $load
failed=$(grep -vc '^200$' /tmp/answers)
echo "        $(wc -l </tmp/answers) requests over upgrade, restart, kill and watchdog; $failed without an answer"
check "only requests in flight at the kills are lost" [ "$failed" -le 2 ]

check "stop" systemctl stop aisix
check "it ends in order" is Result success
check "no process is left" [ -z "$(pgrep -f aisix-worker)" ]
[ $failures = 0 ] || journalctl -u aisix --no-pager -o cat | tail -60
exit $failures
