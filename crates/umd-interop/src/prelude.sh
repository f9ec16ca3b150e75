set -e
export PATH=/bin HOME=/tmp

# Ends the kernel as a power failure would: the host kills it when the file appears.
crash() {
    : >$CTL/crash
    sleep 1000
}

# is_idle md0: now. No other program is started for it: in this kernel that takes long.
is_idle() {
    read action </sys/block/$1/md/sync_action
    [ $action = idle ]
}

# wait_idle md0: returns when no resync, recovery, check or repair runs or is about to.
wait_idle() {
    [ -e /sys/block/$1/md/sync_action ] || return 0
    while :; do
        is_idle $1 && sleep 0.1 && is_idle $1 && return 0
        sleep 0.05
    done
}

# check md0: counts mismatches as the kernel sees them.
check() {
    wait_idle $1
    echo check >/sys/block/$1/md/sync_action
    until is_idle $1; do sleep 0.05; done
    cat /sys/block/$1/md/mismatch_cnt
}

# repair md0: recomputes parity or copies.
repair() {
    wait_idle $1
    echo repair >/sys/block/$1/md/sync_action
    until is_idle $1; do sleep 0.05; done
}

# fail message: ends the script.
fail() {
    echo "FAIL: $*"
    cat /proc/mdstat
    exit 1
}

if [ -e /proc/sys/dev/raid/speed_limit_min ]; then
    echo 1000000 >/proc/sys/dev/raid/speed_limit_min
    echo 2000000 >/proc/sys/dev/raid/speed_limit_max
fi

# Cases in one boot: each runs in a shell of its own and cannot hurt the next.
#     set +e; (begin 7; ...commands...); end 7
begin() {
    set -e
    echo "BEGIN $1"
}
end() {
    if [ $? = 0 ]; then
        echo "PASS $1"
    else
        echo "FAIL $1"
        cat /proc/mdstat
    fi
    for m in /dev/md[0-9]*; do
        [ -b $m ] && mdadm --stop $m >/dev/null 2>&1
    done
}

# same md0 $H/file: the array and the file have equal bytes, as long as the array is.
same() {
    size=$(blockdev --getsize64 /dev/$1)
    head -c $size $2 | cmp - /dev/$1
}
