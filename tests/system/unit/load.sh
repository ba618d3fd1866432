# shellcheck shell=bash
# Nothing is lost: reload, restart and upgrade fail no request, stop finishes those in flight.

wrk_pids=()
load_begin() {
    local connections=20
    timeout -k 5 120 wrk -t1 -c$connections -d60s --timeout 60s -s chat.lua http://127.0.0.1:3000/v1/chat/completions >/tmp/kept.log 2>&1 &
    wrk_pids=($!)
    FRESH=1 timeout -k 5 120 wrk -t1 -c$connections -d60s --timeout 60s -s chat.lua http://127.0.0.1:3000/v1/chat/completions >/tmp/fresh.log 2>&1 &
    wrk_pids+=($!)
    until_true 20 in_flight $connections
}
in_flight() { [ "$(status '[.workers[].in_flight] | add')" -ge "$1" ]; }
load_end() {
    # Some more, of which none may fail either.
    local n
    for n in 1 2 3; do ask slow >/dev/null; done
    # The programs below timeout: they say what came of it.
    pkill -INT -P "${wrk_pids[0]}"; pkill -INT -P "${wrk_pids[1]}"
    wait "${wrk_pids[@]}"
}
none_failed() {
    local file
    for file in kept fresh; do
        note "$file connections: $(grep '^answered' /tmp/$file.log || cat /tmp/$file.log)"
        grep -q '^answered [1-9][0-9]* failed 0 ' /tmp/$file.log || return 1
    done
}
under_load() { # NAME COMMAND...
    local name=$1; shift
    check "there is load" load_begin
    mark
    check "$name" "$@"
    check "$name: it is ready" ready
    load_end
    check "$name: no request failed" none_failed
}

generation() { status '[.workers[] | select(.role == "proxy") | .id] | min'; }
reload_all() {
    local before; before=$(generation)
    systemctl reload aisix && until_true 60 replaced "$before"
}
replaced() { [ "$(generation)" -gt "$1" ]; }
status .ready >/dev/null 2>&1 || check "it starts" restart
under_load "reload" reload_all
under_load "restart" systemctl restart aisix
check "listeners come back from the store" log_has "listener taken over from the service manager"
pid=$(shown MainPID)
upgrade_by_signal() { systemctl kill --signal=USR2 --kill-who=main aisix && until_true 60 log_has "upgraded: every worker is new"; }
under_load "upgrade by signal" upgrade_by_signal
check "the process is the same" is MainPID "$pid"
check "it is active" until_true 10 is ActiveState active
check "an upgrade counts as no restart" is NRestarts 0

# Streams of several seconds, all of them under way when the end is asked for.
streams=20
asked=()
for n in $(seq $streams); do
    ask slower -o "/tmp/stream.$n" &
    asked+=($!)
done
check "streams are under way" until_true 20 in_flight $streams
check "stop" systemctl stop aisix
finished=0
for n in $(seq $streams); do
    wait "${asked[$((n - 1))]}" && grep -q '^data: \[DONE\]' "/tmp/stream.$n" && finished=$((finished + 1))
done
note "$finished of $streams streams finished"
check "all in flight are finished" [ $finished = $streams ]
check "it ends in order" is Result success
check "no process is left" not pgrep -f aisix-worker >/dev/null
check "nobody listens then" not curl -s -o /dev/null http://127.0.0.1:3000/livez
check "it starts again" restart
