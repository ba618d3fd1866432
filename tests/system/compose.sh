#!/bin/bash
# packaging/compose, really run: podman-compose brings up the gateway, the local Cloud and the upstream on a bridge network of
# their own, and a request is answered.
#
#   compose.sh [PROGRAMS [EVALUATION]]    folders of static programs: aisix, aisix-worker; aisix-cloud, aisix-upstream
#
# In namespaces of its own, as container.sh. Needs root; installs what is missing.
# shellcheck disable=SC2317 # functions are called by name
set -euo pipefail

self=$(realpath "$0")
tree=$(realpath "$(dirname "$self")/../..")
cd "$tree"

if [ "${1:-}" != --inside ]; then
    programs=$(realpath "${1:-target/programs}")
    [ "$(id -u)" = 0 ] || { echo "FAILED: only root may make the namespaces of this test" >&2; exit 1; }
    if ! { command -v podman-compose && command -v buildah && command -v runc && test -e /usr/lib/podman/netavark && command -v jq; } >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
            podman podman-compose buildah runc netavark aardvark-dns iptables jq curl iproute2
    fi
    mkdir -p target/system
    work=$(mktemp -d "$tree/target/system/compose.XXXXXX")
    # Control groups are the machine's. A group that somebody uses cannot be removed.
    finish() {
        rm -rf "$work"
        find /sys/fs/cgroup -depth -type d -path '*/libpod_parent*' -exec rmdir {} + 2>/dev/null || true
    }
    trap finish EXIT
    packaging/container/build.sh "$programs" "$work/image.tar"
    if [ $# -ge 2 ]; then
        packaging/compose/build.sh "$2" "$work/evaluation.tar"
    else
        packaging/compose/build.sh && cp target/evaluation/aisix-evaluation-*-image.tar "$work/evaluation.tar"
    fi
    timeout -k 10 600 unshare --net --mount --pid --fork --mount-proc --kill-child --propagation private \
        bash "$self" --inside "$work"
    exit
fi

work=$2
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir -p /var/lib/containers
mount -t tmpfs tmpfs /var/lib/containers
# The name server of the network is reached by a socket of this namespace's own.
mount -t tmpfs tmpfs /etc/containers/networks 2>/dev/null || { mkdir -p /etc/containers/networks && mount -t tmpfs tmpfs /etc/containers/networks; }
ip link set lo up
cd "$work"
cp -r "$tree/packaging/compose" compose

# podman-compose has no flag for these; the program that it calls has them.
mkdir bin
cat >bin/podman <<P
#!/bin/sh
exec $(command -v podman) --root "$work/storage" --runroot /run/podman --runtime $(command -v runc) --cgroup-manager cgroupfs --network-backend netavark "\$@"
P
chmod +x bin/podman
PATH=$work/bin:$PATH
# No CAP_SYS_RESOURCE here: the limits that podman would set are beyond ours.
mkdir -p containers
cat >containers.conf <<'C'
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=1024:1024"]
C
export CONTAINERS_CONF=$work/containers.conf

failures=0
check() {
    local name=$1
    shift
    if "$@"; then echo "ok      $name"; else echo "FAILED  $name"; failures=$((failures + 1)); fi
}
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do [ "$SECONDS" -lt "$end" ] || return 1; sleep 0.2; done
}
podman load -q -i image.tar >/dev/null
podman load -q -i evaluation.tar >/dev/null
cd compose
up() { timeout -k 5 120 podman-compose -f compose.yaml up -d >../up.log 2>&1; }
answered() {
    curl -s -m 10 http://localhost:3000/v1/chat/completions -H 'Authorization: Bearer sk-demo' -H 'Content-Type: application/json' \
        -d '{"model":"gpt-demo","messages":[{"role":"user","content":"hello"}]}' | jq -e '.choices[0].message.content' >/dev/null
}
gateway() { timeout -k 5 30 podman exec compose_gateway_1 /usr/bin/aisix "$@"; }
usage_arrived() { gateway status --json | jq -e '.usage.accepted >= 1' >/dev/null; }
healthy() { timeout -k 5 30 podman healthcheck run compose_gateway_1 >/dev/null; }
check "everything is brought up" up
check "a request is answered" until_true 60 answered
check "its usage has arrived at the local Cloud" until_true 30 usage_arrived
check "the gateway's health check holds" healthy
down() { timeout -k 5 120 podman-compose -f compose.yaml down -v >../down.log 2>&1; }
if [ $failures != 0 ]; then
    tail -n 40 ../up.log
    podman ps -a
    for one in $(podman ps -aq); do echo "== $one"; podman logs --tail 20 "$one"; done
fi
check "and taken down" down
exit $failures
