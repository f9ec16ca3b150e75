# A cluster of one node, without its daemons: what dlm_controld tells the kernel through configfs and
# sysfs is told here by hand. The kernel waits for `event_done` when a lockspace is entered and left.

# cluster_up NAME: this kernel is node 1 of the cluster.
cluster_up() {
    dlm=/sys/kernel/config/dlm/cluster
    mount -t configfs none /sys/kernel/config
    ip link set lo up
    mkdir $dlm
    printf %s $1 >$dlm/cluster_name
    echo 1 >$dlm/recover_callbacks
    mkdir $dlm/comms/1
    echo 1 >$dlm/comms/1/nodeid
    # A sockaddr_storage of 127.0.0.1, in one write.
    printf '\002\000\000\000\177\000\000\001' >/tmp/addr
    dd if=/dev/zero bs=120 count=1 >>/tmp/addr 2>/dev/null
    dd if=/tmp/addr of=$dlm/comms/1/addr bs=128 count=1 2>/dev/null
    echo 1 >$dlm/comms/1/local
    mkdir -p /run/mdadm /dev/md
}

# Answers for the lockspace that is entered next; another one may be there already.
cluster_admit() {
    while :; do
        for space in /sys/kernel/dlm/*; do
            name=${space##*/}
            [ -d $space ] && [ ! -d $dlm/spaces/$name ] || continue
            echo $$ >$space/id
            mkdir $dlm/spaces/$name $dlm/spaces/$name/nodes/1
            echo 1 >$dlm/spaces/$name/nodes/1/nodeid
            echo 1 >$dlm/spaces/$name/nodes/1/weight
            echo 1 >$space/control
            echo 0 >$space/event_done
            return 0
        done
        sleep 0.1
    done
}

# cluster_start md0 DEVICE...: assembles and runs a clustered array.
cluster_start() {
    cluster_admit &
    admit=$!
    mdadm -A -q /dev/$1 $(shift; echo $*)
    wait $admit
}

# cluster_stop md0: stops it, and leaves its lockspace.
cluster_stop() {
    mdadm -S -q /dev/$1 &
    stop=$!
    while kill -0 $stop 2>/dev/null; do
        for space in /sys/kernel/dlm/*; do
            [ -e $space/event_done ] && echo 0 >$space/event_done
        done
        sleep 0.2
    done
    wait $stop
    rmdir $dlm/spaces/*/nodes/1 $dlm/spaces/* 2>/dev/null || true
}
