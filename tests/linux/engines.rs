//! A bundle under the engines that people have, as far as Debian has them: podman, containerd, Slurm. The
//! unit for systemd is verified by a test of xtask.

use std::process::Command;

use super::artifact;
use super::common::{Ended, Scratch, run};

/// What the scripts name: the bundle's image as a layout, and the files that `--deploy` writes.
const FILES: &str = "
    cp -r $BRISK_BUNDLE_LAYOUT layout
    cp -r $BRISK_BUNDLE_DEPLOY deploy
    mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
    ended() { status=0; \"$@\" || status=$?; echo ended with $status; }
";

#[track_caller]
fn shell(script: &str) -> Ended {
    let scratch = Scratch::new();
    let script = format!("{FILES}{script}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &script]).current_dir(scratch.path(""));
    command.env("BRISK_BUNDLE", artifact("BRISK_BUNDLE"));
    run(&mut command)
}

/// The workload's output, and the statuses that the engine gave back.
#[track_caller]
fn says(ended: Ended, wanted: &str) {
    let ended = ended.with_status(0);
    assert_eq!(ended.stdout, wanted, "{ended:#?}");
}

#[test]
fn bundle_by_podman() {
    let script = "
        mkdir -p /run/podman/tmp; export TMPDIR=/run/podman/tmp
        hello() { podman --root /run/podman/root --runroot /run/podman/run --storage-driver vfs \
            --cgroup-manager cgroupfs --log-level error run --rm --network none --read-only \
            --device /dev/kvm oci:layout:latest \"$@\" 2> log; }
        ended hello
        ended hello args a 'b c'
        ended hello exit 7
        ended hello kill 11
    ";
    says(
        shell(script),
        "Hello from a VM.\nended with 0\na\nb c\nended with 0\nended with 7\nended with 139\n",
    );
}

#[test]
fn bundle_by_containerd_and_runc() {
    let script = "
        at=/run/containerd-$$; mkdir $at
        printf 'version = 2\\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\\n' > $at/config.toml
        containerd --config $at/config.toml --root $at/root --state $at/state --address $at/sock \
            > $at/log 2>&1 & daemon=$!
        trap 'kill $daemon; wait $daemon' EXIT
        for wait in $(seq 600); do [ -S $at/sock ] && break; sleep 0.1; done
        ctr() { command ctr --address $at/sock --timeout 60s \"$@\"; }
        tar -C layout -cf image.tar .
        ctr image import --snapshotter native --base-name localhost/hello image.tar > /dev/null
        hello() { ctr run --rm --snapshotter native --read-only --device /dev/kvm \
            localhost/hello:latest vm-$((number += 1)) \"$@\"; }
        number=0
        ended hello
        ended hello /hello args a 'b c'
        ended hello /hello exit 7
    ";
    says(shell(script), "Hello from a VM.\nended with 0\na\nb c\nended with 0\nended with 7\n");
}

/// One node that is its own controller, `srun` and the job that `--deploy` writes.
#[test]
fn bundle_by_slurm() {
    let script = "
        at=/run/slurm-$$; mkdir $at $at/state $at/spool
        cat > $at/slurm.conf <<end
ClusterName=lab
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation=$at/state
SlurmdSpoolDir=$at/spool
SlurmctldPidFile=$at/ctld.pid
SlurmdPidFile=$at/d.pid
SlurmctldLogFile=$at/ctld.log
SlurmdLogFile=$at/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/builtin
SelectType=select/linear
MpiDefault=none
ReturnToService=2
NodeName=node NodeHostname=localhost NodeAddr=127.0.0.1 CPUs=1 RealMemory=1024
PartitionName=all Nodes=node Default=yes MaxTime=INFINITE State=UP
end
        # Version 2 of it wants a systemd.
        echo CgroupPlugin=cgroup/v1 > $at/cgroup.conf
        export SLURM_CONF=$at/slurm.conf
        # glibc looks up no address where loopback's is the only one.
        busybox ip address add 10.84.0.1/32 dev lo
        slurmctld -D -i > $at/out 2>&1 & controller=$!
        slurmd -D -N node >> $at/out 2>&1 & daemon=$!
        trap 'kill $controller $daemon; wait' EXIT
        for wait in $(seq 100); do [ \"$(timeout 5 sinfo -h -o %t 2> /dev/null)\" = idle ] && break; sleep 0.1; done
        timeout 5 sinfo -h -o %t | grep -q idle || { cat $at/out $at/*.log >&2; exit 1; }
        ended srun $BRISK_BUNDLE
        echo typed | ended srun $BRISK_BUNDLE cat
        ended srun $BRISK_BUNDLE exit 7
        ended sbatch --wait --quiet --output out deploy/hello.sbatch args a 'b c'
        cat out
        ended sbatch --wait --quiet --output out deploy/hello.sbatch exit 7
    ";
    says(
        shell(script),
        "Hello from a VM.\nended with 0\ntyped\nended with 0\nended with 7\n\
         ended with 0\na\nb c\nended with 7\n",
    );
}

/// What is installed of the Debian package boots a Linux.
#[test]
fn brisk_of_the_package() {
    let script = "
        cp $BRISK_MICRO vmlinux; cp $BRISK_INITRAMFS initramfs
        mkdir -p root/var/lib/dpkg/info root/var/lib/dpkg/updates
        touch root/var/lib/dpkg/status
        dpkg --root=$PWD/root --install $BRISK_DEB > /dev/null
        dpkg --root=$PWD/root --verify brisk
        root/usr/bin/brisk --version | sed 's/ .*//'
        grep -c '^.TH BRISK 1' root/usr/share/man/man1/brisk.1
        root/usr/bin/brisk --kernel vmlinux --initramfs initramfs --console tty \
            --cmdline 'console=hvc0 quiet brisk.say'
    ";
    says(shell(script), "brisk\n1\nbrisk-init: userspace\r\n");
}
