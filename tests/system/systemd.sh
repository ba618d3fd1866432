#!/bin/bash
# The gateway under a real systemd, in a container that shares this machine's programs: restart, kill -9, watchdog and
# upgrade under load. Needs root and systemd-nspawn. Usage: tests/system/systemd.sh FOLDER-OF-PROGRAMS
set -euo pipefail

[ "$(id -u)" = 0 ] || { echo "skipped: only root may start a container"; exit 0; }
command -v systemd-nspawn >/dev/null || { echo "skipped: systemd-nspawn is not installed (systemd-container)"; exit 0; }

programs=$(realpath "${1:-target/debug}")
tree=$(realpath "$(dirname "$0")/../..")
work=$(mktemp -d)
container=""

finish() {
    [ -z "$container" ] || { kill "$container" 2>/dev/null || true; wait "$container" 2>/dev/null || true; }
    umount "$work/root/m" 2>/dev/null || true
    umount "$work/root" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

mkdir "$work/root" "$work/given"
mount -t tmpfs -o size=512m tmpfs "$work/root"
mkdir "$work/root/up" "$work/root/wk" "$work/root/m"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/root/up,workdir=$work/root/wk" "$work/root/m"
cp "$programs/aisix" "$programs/aisix-worker" "$work/given/"
cp "$tree/systemd/aisix.service" "$work/given/"
cp "$tree/tests/system/within.sh" "$work/given/"

systemd-nspawn --register=no --keep-unit -q -D "$work/root/m" --private-network --machine=aisix-test --console=pipe \
    --bind-ro="$work/given:/mnt" --boot systemd.log_target=journal systemd.show_status=0 \
    </dev/null >"$work/boot.log" 2>&1 &
container=$!
for _ in $(seq 100); do
    first=$(cat "/proc/$container/task/$container/children" 2>/dev/null || true)
    first=${first%% *}
    [ -n "$first" ] && nsenter -t "$first" -a systemctl is-system-running >/dev/null 2>&1 && break
    [ -n "$first" ] && [ "$(nsenter -t "$first" -a systemctl is-system-running 2>/dev/null)" = degraded ] && break
    sleep 0.2
done
nsenter -t "$first" -a bash /mnt/within.sh
