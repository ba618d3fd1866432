# shellcheck shell=bash
# A clean Debian 12 with systemd, booted for one test and gone after it. Source this file in a bash script with `set -euo pipefail`:
#
#   . "$(dirname "$0")/machine.sh"
#   machine_start                            a fresh machine: nothing of an earlier test is in it
#   machine_copy FILE... FOLDER              into the machine, owned by root; the folder is made
#   machine_run COMMAND [ARGUMENT...]        as root inside; its output, its exit status
#   machine_script FILE [ARGUMENT...]        a bash script of ours, inside
#   machine_end                              on exit by itself: processes, mounts, control groups, whatever happened before
#
# The tree is made once (target/system/, a minute, from the mirror that this machine's apt uses); each machine is an overlay on
# it, in memory. It has a network of its own with nothing but a loopback. MACHINE_DEADLINE is what one command inside may take, in
# seconds (900). MACHINE_OPTIONS (an array) is given to systemd-nspawn. One machine at a time for a script, any number on a computer.
# Needs root; what is missing is installed, and where that cannot be done the script fails.

machine_target=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")/target/system
# What a Debian server has beyond its base system, and what the tests use.
machine_packages=systemd,systemd-sysv,dbus,libpam-systemd,iproute2,procps,psmisc,less,adduser,openssl,ca-certificates,netbase,kmod
machine_packages+=,man-db,bash-completion,logrotate,tzdata,curl,wrk,jq,python3-minimal,rpm
machine_work=""
machine_launcher=""
machine_first=""
machine_group=""

machine_fail() { echo "$0: $*" >&2; exit 1; }

# machine_need COMMAND PACKAGE
machine_need() {
    command -v "$1" >/dev/null && return
    command -v apt-get >/dev/null || machine_fail "$1 is missing; install it (Debian: $2) and try again"
    echo "installing $2"
    timeout -k 5 300 apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive timeout -k 5 600 apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends "$2" >/dev/null ||
        machine_fail "$1 is missing and could not be installed; try: sudo apt-get install $2"
}

# Makes the tree if there is none of this list of packages; sets machine_tree.
machine_make_tree() {
    machine_tree=$machine_target/bookworm-$(echo "$machine_packages" | cksum | cut -d' ' -f1)
    mkdir -p "$machine_target"
    # Two tests may want it at once: the second one waits.
    exec {machine_lock}>"$machine_target/lock"
    timeout -k 5 1200 flock "$machine_lock"
    if [ ! -d "$machine_tree" ]; then
        local mirror
        # A variable of apt, not of the shell. Nothing is found on other distributions: then mmdebstrap takes Debian's own mirror.
        # shellcheck disable=SC2016
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Codename: bookworm' 2>/dev/null | sed q || true)
        echo "making a Debian tree for the tests, once: $machine_tree"
        rm -rf --one-file-system "$machine_tree.new"
        # shellcheck disable=SC2086
        timeout -k 5 1200 mmdebstrap --quiet --mode=root --variant=minbase --include="$machine_packages" bookworm "$machine_tree.new" $mirror ||
            machine_fail "no Debian tree could be made with mmdebstrap; it needs a Debian mirror"
        mv "$machine_tree.new" "$machine_tree"
    fi
    exec {machine_lock}>&-
}

machine_start() {
    [ "$(id -u)" = 0 ] || machine_fail "only root may boot a machine; try again with sudo"
    machine_need mmdebstrap mmdebstrap
    machine_need systemd-nspawn systemd-container
    machine_make_tree

    trap machine_end EXIT
    trap 'exit 130' INT TERM HUP
    machine_work=$(mktemp -d /tmp/aisix-machine.XXXXXX)
    mkdir "$machine_work/disk"
    mount -t tmpfs -o size=2g,mode=755 tmpfs "$machine_work/disk"
    mkdir "$machine_work/disk/upper" "$machine_work/disk/work" "$machine_work/root"
    mount -t overlay overlay -o "lowerdir=$machine_tree,upperdir=$machine_work/disk/upper,workdir=$machine_work/disk/work" "$machine_work/root"
    tr -d - </proc/sys/kernel/random/uuid >"$machine_work/root/etc/machine-id"

    local name=${machine_work##*.}
    local command=(systemd-nspawn --register=no --keep-unit --quiet --directory="$machine_work/root" --private-network
        --machine="aisix-test-${name,,}" --console=pipe
        --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self" ${MACHINE_OPTIONS[@]+"${MACHINE_OPTIONS[@]}"}
        --boot systemd.log_target=journal systemd.show_status=0)
    # Landlock is in the kernel, but not in the list of calls of older nspawns.
    # A control group of its own, or two machines would share the one that nspawn makes below ours.
    if [ -d /run/systemd/system ]; then
        command=(systemd-run --quiet --scope --property=Delegate=yes "${command[@]}")
    else
        machine_group=aisix-test-$name
    fi
    machine_boot "${command[@]}" </dev/null >"$machine_work/boot.log" 2>&1 &
    machine_launcher=$!

    local end=$((SECONDS + 120)) state=""
    until [ "$state" = running ] || [ "$state" = degraded ]; do
        if [ $SECONDS -ge $end ] || ! kill -0 "$machine_launcher" 2>/dev/null; then
            tail -20 "$machine_work/boot.log" >&2
            machine_fail "the machine did not boot (last state: ${state:-none})"
        fi
        sleep 0.1
        machine_first=$(cat "/proc/$machine_launcher/task/$machine_launcher/children" 2>/dev/null || true)
        machine_first=${machine_first%% *}
        [ -n "$machine_first" ] || continue
        state=$(MACHINE_DEADLINE=10 machine_run systemctl is-system-running 2>/dev/null || true)
    done
    [ "$state" = running ] || machine_run systemctl --failed --no-pager --no-legend
    machine_run ip link set lo up
}

# In a process of its own, which becomes nspawn.
machine_boot() {
    local hierarchy
    if [ -n "$machine_group" ]; then
        for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
            [ -e "$hierarchy/cgroup.procs" ] || continue
            mkdir "$hierarchy/$machine_group"
            echo "$BASHPID" >"$hierarchy/$machine_group/cgroup.procs"
        done
    fi
    exec "$@"
}

# In the background, for a signal to this script ends the wait, and by the trap the machine.
machine_run() {
    timeout -k 5 "${MACHINE_DEADLINE:-900}" nsenter --target "$machine_first" --all -- \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb "$@" <&0 &
    wait $!
}

# Through the machine's own eyes: a folder may be a file system that is mounted only inside.
machine_copy() {
    local files=("${@:1:$#-1}") folder=${!#} file from=()
    for file in "${files[@]}"; do
        file=$(realpath "$file")
        from+=(-C "$(dirname "$file")" "$(basename "$file")")
    done
    machine_run mkdir -p "$folder"
    tar -c "${from[@]}" | machine_run tar -x --no-same-owner -C "$folder"
}

machine_script() {
    local script=$1
    shift
    machine_copy "$script" /root/scripts
    machine_run bash "/root/scripts/$(basename "$script")" "$@"
}

machine_end() {
    trap - EXIT
    local hierarchy
    # Its first process takes all others with it; nothing in it is worth an orderly end.
    [ -z "$machine_first" ] || kill -KILL "$machine_first" 2>/dev/null || true
    if [ -n "$machine_launcher" ]; then
        timeout -k 1 10 tail --pid="$machine_launcher" -f /dev/null || kill -KILL "$machine_launcher" 2>/dev/null || true
        wait "$machine_launcher" 2>/dev/null || true
    fi
    if [ -n "$machine_work" ]; then
        umount "$machine_work/root" 2>/dev/null || umount -l "$machine_work/root" 2>/dev/null || true
        umount "$machine_work/disk" 2>/dev/null || umount -l "$machine_work/disk" 2>/dev/null || true
        rm -rf --one-file-system "$machine_work"
    fi
    if [ -n "$machine_group" ]; then
        for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
            [ -d "$hierarchy/$machine_group" ] || continue
            # The kernel may still be taking the last processes away.
            local end=$((SECONDS + 5))
            until find "$hierarchy/$machine_group" -depth -type d -exec rmdir {} + 2>/dev/null || [ $SECONDS -ge $end ]; do sleep 0.1; done
        done
    fi
    machine_work="" machine_launcher="" machine_first="" machine_group=""
}
