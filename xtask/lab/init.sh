#!/bin/busybox sh
# L1's init: makes a real KVM and this machine's own root (read-only) of a bare Debian kernel, then
# runs the job's script from /tmp/out/.lab. Modules are in the order in which they need each other.
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev; mount -t proc none /proc; mount -t sysfs none /sys
for module in $(cat /modules/order); do insmod "/modules/$module" || echo "lab: $module: no such module"; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro hostroot /root
mount -t tmpfs none /run
# What the mounts below hide stays in sight at /run/host.
mkdir /run/host; mount --bind /root /run/host
for d in dev proc sys run; do mount --move /$d /root/$d; done
mount -t tmpfs none /root/tmp; chmod 1777 /root/tmp
mkdir -p /root/tmp/out /root/dev/shm /root/dev/pts /root/dev/hugepages
mount -t tmpfs none /root/dev/shm
mount -t devpts none /root/dev/pts
mount -t hugetlbfs none /root/dev/hugepages
# No caching here: what the script has written is on the other side at once.
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none out /root/tmp/out
mount -t debugfs none /root/sys/kernel/debug; mount -t tracefs none /root/sys/kernel/tracing
ip link set lo up
dmesg -n 1
exec switch_root /root /bin/sh /tmp/out/.lab/start
