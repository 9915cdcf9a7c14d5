#!/bin/busybox sh
# L1's init: makes a real KVM and this machine's own root of a bare Debian kernel, then runs the job's
# script. Modules are in the order in which they need each other; those of `order-own` are for a job
# that has the caller's streams and sees the caller's files.
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev; mount -t proc none /proc; mount -t sysfs none /sys
load() { for module in $(cat "/modules/$1"); do insmod "/modules/$module" || echo "lab: $module: no such module"; done; }
nine() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2"; }
load order
nine hostroot /root cache=loose,ro
mount -t tmpfs none /run
# What the mounts below hide stays in sight at /run/host. No caching in the job's directory: what the
# script has written is on the other side at once.
mkdir /run/host /run/lab; mount --bind /root /run/host
nine out /run/lab cache=none
own=; [ -e /run/lab/.lab/own ] && own=yes
if [ "$own" ]; then
  load order-own
  # All of this machine's files at their own paths, and what is written goes to memory.
  mkdir /run/written; mount -t tmpfs none /run/written; mkdir /run/written/upper /run/written/work
  mount -t overlay -o lowerdir=/run/host,upperdir=/run/written/upper,workdir=/run/written/work none /root
fi
for d in dev proc sys run; do mount --move /$d /root/$d; done
if [ ! "$own" ]; then
  mount -t tmpfs none /root/tmp; chmod 1777 /root/tmp
  mkdir /root/tmp/out; mount --bind /root/run/lab /root/tmp/out
fi
mkdir -p /root/dev/shm /root/dev/pts /root/dev/hugepages
mount -t tmpfs none /root/dev/shm
mount -t devpts none /root/dev/pts
mount -t hugetlbfs none /root/dev/hugepages
mount -t debugfs none /root/sys/kernel/debug; mount -t tracefs none /root/sys/kernel/tracing
ip link set lo up
dmesg -n 1
exec switch_root /root /bin/sh /run/lab/.lab/start
