#!/bin/bash
# The image, really built and really run by Debian's podman, without any registry: the guide's `docker run` line, a read-only
# root, no capability, any user of group 0, separate users, names, health, the end by SIGTERM and by kill -9, exit codes.
#
#   container.sh [PROGRAMS [TOOLS]]     PROGRAMS: static aisix, aisix-worker (target/programs); TOOLS: aisix-cloud, aisix-upstream
#                                       (target/debug)
#
# Everything happens in a network, a mount and a process namespace of its own: no port, no image, no mount of this machine is
# touched, and nothing outlives the script. Needs root; installs podman, buildah and runc where they are missing.
# shellcheck disable=SC2317 # functions are called by name
set -euo pipefail

self=$(realpath "$0")
tree=$(realpath "$(dirname "$self")/../..")
cd "$tree"

if [ "${1:-}" != --inside ]; then
    programs=$(realpath "${1:-target/programs}")
    tools=$(realpath "${2:-target/debug}")
    [ "$(id -u)" = 0 ] || { echo "FAILED: only root may make the namespaces of this test" >&2; exit 1; }
    if ! { command -v podman && command -v buildah && command -v runc && command -v jq && command -v curl; } >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends podman buildah runc jq curl iproute2
    fi
    mkdir -p target/system
    work=$(mktemp -d "$tree/target/system/container.XXXXXX")
    # Control groups are the machine's. A group that somebody uses cannot be removed.
    finish() {
        rm -rf "$work"
        find /sys/fs/cgroup -depth -type d -path '*/libpod_parent*' -exec rmdir {} + 2>/dev/null || true
    }
    trap finish EXIT
    # Of one commit, whatever happens to the tree meanwhile.
    SOURCE_DATE_EPOCH=$(packaging/date.sh)
    AISIX_REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)
    export SOURCE_DATE_EPOCH AISIX_REVISION
    packaging/container/build.sh "$programs" "$work/image.tar"
    packaging/container/build.sh "$programs" "$work/again.tar"
    cmp "$work/image.tar" "$work/again.tar" || { echo "FAILED: two builds of the same image differ" >&2; exit 1; }
    echo "ok      the same bytes each time"
    # `--kill-child`: whatever still runs inside ends with it.
    timeout -k 10 900 unshare --net --mount --pid --fork --mount-proc --kill-child --propagation private \
        bash "$self" --inside "$work" "$tools"
    exit
fi

work=$2
tools=$3
failures=0
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
image=aisix:$version
environment=11111111-2222-3333-4444-555555555555

check() { # NAME COMMAND...
    local name=$1
    shift
    if "$@"; then echo "ok      $name"; else echo "FAILED  $name"; failures=$((failures + 1)); fi
}
until_true() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}
has() { grep -qF -- "$1" "$2"; }
is() { [ "$1" = "$2" ] || { echo "        $1, not $2"; return 1; }; }

# Places that podman and runc share with the machine.
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir -p /var/lib/containers
mount -t tmpfs tmpfs /var/lib/containers
ip link set lo up
ip address add 10.77.0.1/32 dev lo
cd "$work"

podman=(podman --root "$work/storage" --runroot /run/podman --runtime "$(command -v runc)" --cgroup-manager cgroupfs)
# The missing service manager, which would run health checks at their intervals, is told in each start.
P() { timeout -k 5 120 "${podman[@]}" "$@" 2> >(grep -v 'unable to get systemd connection' >&2); }
# What this machine needs (no CAP_SYS_RESOURCE), and so that the test need not wait half a minute for a load balancer to notice.
machine="--network=host --ulimit nofile=20000:20000 --ulimit nproc=1024:1024 -e AISIX_SHUTDOWN__MIN_DRAIN_SECS=0"
# How Docker sets the root read-only: podman would add /run, /tmp and others in memory.
read_only="--read-only --read-only-tmpfs=false"
managed='-e AISIX_MANAGED__CP_BASE_URL=https://127.0.0.1:7944 -e AISIX_MANAGED__CP_CERT_FILE=/etc/aisix/mtls/client.crt
    -e AISIX_MANAGED__CP_KEY_FILE=/etc/aisix/mtls/client.key -e AISIX_MANAGED__CP_CA_FILE=/etc/aisix/mtls/ca.crt'
run() { # NAME FLAGS... : in the background, until it is ready
    local name=$1
    shift
    # shellcheck disable=SC2086 # flags, word by word
    P run -d --name "$name" $machine $managed -v "$work/mtls:/etc/aisix/mtls:ro" "$@" "$image" >/dev/null
    check "it becomes ready" until_true 30 ready "$name"
}
inside() { P exec "$1" /usr/bin/aisix "${@:2}"; }
ready() { inside "$1" status --check >"$work/check" 2>&1; }
ask() { # MODEL [FURTHER FIELDS]
    curl -s -N -m 60 http://127.0.0.1:3000/v1/chat/completions -H 'Authorization: Bearer sk-demo' -H 'Content-Type: application/json' \
        -d "{\"model\":\"$1\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]${2:-}}"
}
answers() { ask "$1" | jq -e '.choices[0].message.content' >/dev/null; }
used() { curl -s -m 5 http://127.0.0.1:7945/usage/totals | jq "[.[].events] | add // 0"; }
used_is() { [ "$(used)" = "$1" ]; }
remove() { # NAME: ends it in order
    P stop -t 60 "$1" >/dev/null
    P rm "$1" >/dev/null
}

cat >resources.yaml <<R
environments:
  $environment:
    provider_keys:
      literal: {display_name: literal, provider: openai, api_key: sk-upstream, api_base: "http://127.0.0.1:8080/v1"}
      hosts: {display_name: hosts, provider: openai, api_key: sk-upstream, api_base: "http://by-hosts-file.test:8080/v1"}
      search: {display_name: search, provider: openai, api_key: sk-upstream, api_base: "http://model.apps:8080/v1"}
    models:
      m-1: {display_name: plain, provider: openai, model_name: small-1, provider_key_id: literal}
      m-2: {display_name: slow, provider: openai, model_name: slow-300, provider_key_id: literal}
      m-3: {display_name: hosts, provider: openai, model_name: small-1, provider_key_id: hosts}
      m-4: {display_name: search, provider: openai, model_name: small-1, provider_key_id: search}
    api_keys: {k-1: {key: sk-demo, allowed_models: ["*"]}}
R
"$tools/aisix-cloud" serve --data cloud --resources resources.yaml >cloud.log 2>&1 &
"$tools/aisix-upstream" --listen 0.0.0.0:8080 --key sk-upstream >upstream.log 2>&1 &
python3 "$tree/tests/system/names.py" 10.77.0.1 model.apps.cluster.test 10.77.0.1 >names.log 2>&1 &
until_true 20 test -e cloud/addresses.json
"$tools/aisix-cloud" issue --data cloud --env "$environment" --out mtls >/dev/null
P load -q -i image.tar >/dev/null
echo "        the image: $(P image inspect --format '{{.Size}}' "$image") bytes, $(P image inspect --format '{{len .RootFS.Layers}}' "$image") layer"

echo "== the guide's line, word for word"
# shellcheck disable=SC2016 # as it is written
guide='docker run --rm \
-e AISIX_CONFIG_PATH=/etc/aisix/config.managed.yaml \
-e AISIX_MANAGED__CP_BASE_URL="https://dpm.example.com:7944" \
-e AISIX_MANAGED__CP_CERT_FILE="/etc/aisix/mtls/client.crt" \
-e AISIX_MANAGED__CP_KEY_FILE="/etc/aisix/mtls/client.key" \
-e AISIX_MANAGED__CP_CA_FILE="/etc/aisix/mtls/ca.crt" \
-v "$PWD/mtls:/etc/aisix/mtls:ro" \
-v aisix-state:/var/lib/aisix \
ghcr.io/api7/ai-gateway:dev'
line=$(sed -e "s#^docker run#${podman[*]} run --name guide $machine#" -e 's#https://dpm.example.com:#https://127.0.0.1:#' \
    -e "s#^ghcr.io/api7/ai-gateway:dev\$#$image#" <<<"$guide")
# One that somebody has closed to all but its own user, and the container's is another.
cp -a mtls issued
chmod 700 mtls
chmod 600 mtls/client.key
code=0
eval "$line" >refused.log 2>&1 || code=$?
check "a bundle that is closed to it ends the start with status 1" is "$code" 1
check "and the reason names the command that opens it" has "\`chmod -R g+rX /etc/aisix/mtls\`" refused.log
code=0
eval "$line doctor" >doctor.log 2>&1 || code=$?
check "doctor says so, too" has "g+rX" doctor.log
rm -r mtls
mv issued mtls
eval "$line" >guide.log 2>&1 &
guide_pid=$!
check "with the bundle as it was issued it becomes ready" until_true 30 ready guide
check "a request is served" answers plain
check "its usage arrives" until_true 30 used_is 1
check "podman's own health check holds" P healthcheck run guide
inside guide status >status.txt
check "the status says that it is single-user" has "every process runs as user 10001" status.txt
nothing_wrong() { inside "$1" doctor >doctor.log; }
check "doctor finds nothing wrong" nothing_wrong guide
# Of little use, since an image does not change; what it does is what it does everywhere.
upgrade() { inside "$1" upgrade >upgrade.log 2>&1; }
check "an upgrade is accepted" upgrade guide
check "and carried out" until_true 30 has "upgraded: every worker is new" guide.log
check "it is ready after that" until_true 30 ready guide
# The log is what podman got from it, but for lines of podman's own.
grep -v '^time=' guide.log >lines.log || true
is_json() { [ -s "$1" ] && jq -e . "$1" >/dev/null; }
check "every line of the log is JSON" is_json lines.log
ask slow ',"stream":true' >stream.log &
stream=$!
check "a stream begins" until_true 20 grep -q '^data: ' stream.log
check "it is not over" [ "$(grep -c '\[DONE\]' stream.log)" = 0 ]
P kill --signal TERM guide >/dev/null
wait $stream || true
check "SIGTERM lets the stream end" has '[DONE]' stream.log
code=0
wait $guide_pid || code=$?
check "and then the container with status 0" is "$code" 0
check "usage of the stream has arrived" until_true 10 used_is 2

echo "== read-only, no capability, no new privileges, user 12345:0, 64 KiB of /run/aisix"
hardened="$read_only --cap-drop=ALL --security-opt no-new-privileges"
# shellcheck disable=SC2086
run hardened $hardened --user 12345:0 --tmpfs /run/aisix:size=64k,mode=0770 -v state-2:/var/lib/aisix
check "a request is served" answers plain
inside hardened status --json >status.json
check "the control socket is in that memory" inside hardened status --check --socket /run/aisix/aisix.sock
check "the status says who everybody is" is "$(jq .single_user.uid status.json)" 12345
check "the filter and Landlock are in force: nothing is missing but users" \
    is "$(jq -c '[.workers[].missing[]] | unique' status.json)" "[\"runs as the supervisor's own user 12345\"]"
check "that is no finding" is "$(jq -c .findings status.json)" '[]'
check "usage arrives" until_true 30 used_is 3
for _ in 1 2 3 4 5; do ask plain >/dev/null; done
P kill --signal KILL hardened >/dev/null
gone() { [ "$(P inspect --format '{{.State.Running}}' "$1")" = false ]; }
check "it is gone" until_true 20 gone hardened
P start hardened >/dev/null
check "after kill -9 the same container becomes ready" until_true 30 ready hardened
check "all usage has arrived, once" until_true 30 used_is 8
inside hardened status --json >again.json
check "it is the same data plane" is "$(jq -r .identity.dp_id again.json)" "$(jq -r .identity.dp_id status.json)"
remove hardened

echo "== the same without any memory for /run/aisix, without the bundle: both are in the state volume"
# shellcheck disable=SC2086
P run -d --name without $machine $hardened --user 12345:0 -e AISIX_MANAGED__CP_BASE_URL=https://127.0.0.1:7944 \
    -v state-2:/var/lib/aisix "$image" >/dev/null
check "it becomes ready" until_true 30 ready without
check "a request is served" answers plain
remove without

echo "== as Kubernetes mounts them: state of root and the group fsGroup, the bundle 0440, /run/aisix read-only"
mkdir claim secret
cp mtls/* secret
chown 0:10001 claim secret/*
chmod 2775 claim
chmod 0440 secret/*
# shellcheck disable=SC2086
P run -d --name kubernetes $machine $managed $hardened --user 10001:0 --group-add 10001 -v "$work/secret:/etc/aisix/mtls:ro" \
    -v "$work/claim:/var/lib/aisix" "$image" >/dev/null
check "it becomes ready" until_true 30 ready kubernetes
check "a request is served" answers plain
check "nothing is found wrong" is "$(inside kubernetes status --json | jq -c .findings)" '[]'
remove kubernetes
# An emptyDir: everybody may write to it, so the state is below it, as in deployment.yaml.
mkdir empty
chmod 0777 empty
# shellcheck disable=SC2086
P run -d --name kubernetes $machine $managed $hardened --user 10001:0 --group-add 10001 -v "$work/secret:/etc/aisix/mtls:ro" \
    -v "$work/empty:/var/lib/aisix" -e AISIX_MANAGED__MTLS_DIR=/var/lib/aisix/gateway/mtls \
    -e AISIX_MANAGED__DP_ID_FILE=/var/lib/aisix/gateway/dp_id \
    -e AISIX_MANAGED__SNAPSHOT_CACHE_PATH=/var/lib/aisix/gateway/config_cache.json "$image" >/dev/null
check "it becomes ready" until_true 30 ready kubernetes
check "nothing is found wrong" is "$(inside kubernetes status --json | jq -c .findings)" '[]'
remove kubernetes

echo "== as root with four capabilities: a user per role"
separate="$hardened --user 0:0 --cap-add=SETUID,SETGID,SETPCAP,KILL --tmpfs /run/aisix:size=64k,mode=0770"
# shellcheck disable=SC2086
run separate $separate -v state-3:/var/lib/aisix
check "a request is served" answers plain
inside separate status --json >status.json
check "it is not single-user" is "$(jq .single_user status.json)" null
check "every role has a user of its own" \
    is "$(jq '[.workers[] | {role, uid}] | unique | [.[].uid] | (length == (unique | length)) and (index(0) == null)' status.json)" true
check "workers are fully confined" is "$(jq .sandbox.level status.json)" 3
check "the control socket is where it belongs" inside separate status --check --socket /run/aisix/aisix.sock
remove separate
# A volume that a gateway of another user has filled: without CAP_DAC_OVERRIDE root is nobody to those files.
# shellcheck disable=SC2086
run separate $separate -v state-2:/var/lib/aisix
check "it serves with state of another user" answers plain
inside separate status --json | jq -r '.findings[].text' >findings.txt
check "and says that it cannot use it, and what to do" has "make it writable by the user that runs the gateway" findings.txt
remove separate

echo "== names"
# shellcheck disable=SC2086
run names $hardened --tmpfs /run/aisix:size=64k,mode=0770 -v state-4:/var/lib/aisix --add-host by-hosts-file.test:10.77.0.1 \
    --dns 10.77.0.1 --dns-search cluster.test --dns-option ndots:2
check "a name of the hosts file" answers hosts
check "a name below a search domain" answers search
# With ndots:2 a name with one dot is looked for below the domain first.
check "in the order that ndots says" is "$(grep -o 'model\.apps[a-z.]*' names.log | head -1)" model.apps.cluster.test
remove names

echo "== exit codes"
code_of() { # ARGUMENTS of podman run, IMAGE and its arguments
    local code=0
    # Not by P, whose filter may still be writing when it returns.
    # shellcheck disable=SC2086
    timeout -k 5 120 "${podman[@]}" run --rm $machine "$@" >code.raw 2>&1 || code=$?
    grep -v 'unable to get systemd connection' code.raw >code.log || true
    echo "$code"
}
check "a configuration that is not there: 1" is "$(code_of -e AISIX_CONFIG_PATH=/etc/aisix/none.yaml "$image")" 1
check "and it is named" has /etc/aisix/none.yaml code.log
check "an unknown flag: 2" is "$(code_of "$image" --confg)" 2
mkdir bad
cp mtls/* bad
echo "no certificate" >bad/client.crt
# shellcheck disable=SC2086
check "a bundle that is none: 1" is "$(code_of $managed -v "$work/bad:/etc/aisix/mtls:ro" "$image")" 1
check "and it is named" has "not usable PEM" code.log
check "a health check without a gateway: 1" is "$(code_of "$image" status --check)" 1
check "in one line" is "$(grep -c . code.log)" 1

if [ $failures != 0 ]; then
    tail -n 20 guide.log refused.log doctor.log upgrade.log names.log code.log check
    echo "$failures FAILED"
fi
exit $failures
