# shellcheck shell=bash
# What ends a supervisor by force is healed by systemd, and costs requests in flight at most. Fresh connections all the while.

# A quick watchdog, so that nobody waits for the real one.
printf '[Service]\nWatchdogSec=3s\n' | drop_in aisix.service watchdog
check "it starts" restart
rm -f /tmp/enough /tmp/answers
(while [ ! -e /tmp/enough ]; do
    code=$(curl -s -m 20 -o /dev/null -w '%{http_code}' http://127.0.0.1:3000/livez)
    echo "$code" >>/tmp/answers
done) &
probes=$!
answered() { [ "$(wc -l </tmp/answers)" -ge "$1" ]; }
check "requests come and go" until_true 10 answered 20

alive() { [ "$(curl -s -m 5 -o /dev/null -w '%{http_code}' http://127.0.0.1:3000/livez)" = 200 ]; }
before=$(shown NRestarts)
mark
kill -9 "$(shown MainPID)"
check "systemd has restarted it after kill -9" until_true 10 is NRestarts $((before + 1))
check "it serves after kill -9" until_true 10 alive
check "listeners come back from the store after kill -9" until_true 10 log_has "listener taken over from the service manager"

kill -STOP "$(shown MainPID)"
check "the watchdog ends a supervisor that hangs" until_true 20 is NRestarts $((before + 2))
check "it serves after that" until_true 10 alive

# A hand-over may take some seconds of its own, in which nobody feeds.
printf '[Service]\nWatchdogSec=10s\n' | drop_in aisix.service watchdog
check "restart" restart
pid=$(shown MainPID)
check "an upgrade" aisix upgrade
fed() { [ "$(shown WatchdogTimestampMonotonic)" -gt "$1" ]; }
check "every worker is new" until_true 20 log_has "upgraded: every worker is new"
check "the new program feeds the watchdog" until_true 20 fed "$(shown WatchdogTimestampMonotonic)"
check "the process is the same after it" is MainPID "$pid"

touch /tmp/enough; wait $probes
lost=$(grep -vc '^200$' /tmp/answers)
note "$(wc -l </tmp/answers) requests over kill, watchdog and upgrade; $lost without an answer"
check "only requests in flight at the kills are lost" [ "$lost" -le 2 ]
rm /etc/systemd/system/aisix.service.d/watchdog.conf
systemctl daemon-reload

# It does not try for ever.
cp /etc/aisix/config.managed.yaml /tmp/good.yaml
echo 'proxy: {addr: nonsense}' >/etc/aisix/config.managed.yaml
systemctl reset-failed aisix
systemctl restart aisix 2>/dev/null
check "settings that cannot be used: the unit fails after its tries" until_true 60 is ActiveState failed
cp /tmp/good.yaml /etc/aisix/config.managed.yaml
check "and starts when they are mended" restart
