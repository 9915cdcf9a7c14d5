//! brisk inside what `features.md` names to shut it in, a Linux in it that comes to its userspace: the
//! command lines are read from there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::common::{Ended, Scratch, brisk, run};
use super::{USERSPACE, artifact};

/// What the pages' commands name: brisk, a kernel, an initramfs; which anybody may read.
fn place() -> Scratch {
    let scratch = Scratch::new();
    let program = brisk().get_program().to_owned();
    for (from, name, mode) in [
        (program.as_ref(), "brisk", 0o755),
        (artifact("BRISK_MICRO").as_path(), "vmlinux", 0o644),
        (artifact("BRISK_INITRAMFS").as_path(), "initramfs", 0o644),
    ] {
        fs::copy(Path::new(from), scratch.path(name)).expect("a copy");
        fs::set_permissions(scratch.path(name), fs::Permissions::from_mode(mode)).expect("a mode");
    }
    fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).expect("a mode");
    scratch
}

/// The lines of the page's block that begins behind `<!-- run: NAME -->`.
#[track_caller]
fn documented(name: &str) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/features.md");
    let text = fs::read_to_string(page).expect("features.md");
    let mark = format!("<!-- run: {name} -->\n");
    let (_, rest) = text.split_once(&mark).unwrap_or_else(|| panic!("features.md: no {mark}"));
    let lines = rest.lines().skip_while(|line| line.is_empty());
    let block: Vec<&str> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    assert!(!block.is_empty(), "{name}: nothing to run");
    block.join("\n") + "\n"
}

/// What the host has that the commands need, seen by nobody else: user and group, /dev/kvm that is the
/// group's, cgroups, loop devices.
const HOST: &str = "
    cat /etc/passwd - > passwd <<'end'
brisk:x:998:998::/:/usr/sbin/nologin
end
    cat /etc/group - > group <<'end'
kvm:x:999:brisk
end
    mount --bind passwd /etc/passwd
    mount --bind group /etc/group
    chgrp kvm /dev/kvm
    chmod 660 /dev/kvm
    mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
    echo '+memory +pids +io' > /sys/fs/cgroup/cgroup.subtree_control
";

/// Runs a script of the shell in that directory, on that host.
#[track_caller]
fn shell(scratch: &Scratch, script: &str) -> Ended {
    let script = format!("{HOST}{script}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &script]).current_dir(scratch.path(""));
    run(&mut command)
}

/// Userspace was reached, and the VM ended by itself.
#[track_caller]
fn boots(ended: Ended) {
    let ended = ended.with_status(0);
    assert!(ended.stdout.contains(USERSPACE), "{ended:#?}");
}

#[test]
fn bubblewrap() {
    boots(shell(&place(), &documented("bubblewrap")));
}

#[test]
fn unshare_and_setpriv() {
    boots(shell(&place(), &documented("unshare")));
}

/// A log that the guest fills ends at the limit, and the guest goes on to its end.
#[test]
fn a_log_ends_at_its_limit() {
    let scratch = place();
    let script = documented("unshare")
        .replace("ulimit -f 2048", "ulimit -f 4")
        .replace("--console tty", "--console file=/run/log")
        .replace(
            "brisk.say",
            "quiet brisk.do=cat=/proc/meminfo,cat=/proc/meminfo,cat=/proc/meminfo",
        );
    let wanted =
        "touch /run/log; chown brisk /run/log\n".to_owned() + &script + "cp /run/log log\n";
    shell(&scratch, &wanted).with_status(0);
    let log = fs::metadata(scratch.path("log")).expect("the log");
    assert_eq!(log.len(), 4 * 512, "{}", scratch.text("log"));
}

/// Attaches a file to the block device that the page names.
const LOOP: &str = "truncate -s 8M disk\nlosetup -D\nlosetup /dev/loop0 disk\n";
/// Takes both away again, and says what the group used.
const AFTER: &str = "cat /sys/fs/cgroup/vm/io.stat /sys/fs/cgroup/vm/memory.events > counts\n\
                     rmdir /sys/fs/cgroup/vm\nlosetup -D\n";

#[test]
fn a_cgroup() {
    let scratch = place();
    let script = documented("cgroup");
    boots(shell(&scratch, &format!("{LOOP}{script}{AFTER}")));
    assert!(scratch.text("counts").contains("oom_kill 0"), "{}", scratch.text("counts"));
}

/// Of a guest that uses more memory than its group has, the VM ends and nothing else.
#[test]
fn a_cgroup_without_that_much_memory() {
    let scratch = place();
    let script = documented("cgroup")
        .replace("136M", "64M")
        .replace("brisk.say", "brisk.do=touch=96")
        .trim_end()
        .to_owned();
    let ended = shell(&scratch, &format!("{LOOP}{script} || echo $? > status\n{AFTER}"));
    ended.with_status(0);
    let counts = scratch.text("counts");
    assert_eq!(scratch.text("status").trim(), "137", "{counts}");
    assert!(counts.contains("oom_kill 1"), "{counts}");
}

#[cfg(feature = "smp")]
#[test]
fn a_cgroup_without_that_many_threads() {
    let scratch = place();
    let script = documented("cgroup").trim_end().to_owned() + " --cpus boot=9";
    // Within the quotes.
    let script = script.replace("tty' --cpus boot=9", "tty --cpus boot=9'");
    let ended =
        shell(&scratch, &format!("{LOOP}{script} || echo $? > status\n{AFTER}")).with_status(0);
    assert_eq!(scratch.text("status").trim(), "1");
    assert!(ended.stderr.contains("--cpus: a thread for vCPU"), "{ended:#?}");
}

/// What a guest writes is its group's to write, and no faster than that may: two seconds' worth.
#[cfg(feature = "block")]
#[test]
fn a_cgroup_without_that_much_input_and_output() {
    let scratch = place();
    let verbs = ["direct=/init:/dev/vda"; 64].join(",");
    let script = documented("cgroup")
        .replace("wbps=10000000", "wbps=131072")
        .replace("brisk.say", &format!("quiet brisk.do={verbs}"))
        .replace("--console tty", "--console tty --disk path=/dev/loop0,direct=on");
    let since = std::time::Instant::now();
    let ended = shell(&scratch, &format!("{LOOP}{script}{AFTER}")).with_status(0);
    assert_eq!(ended.stdout.matches("written directly").count(), 64, "{ended:#?}");
    let counts = scratch.text("counts");
    let written = counts.lines().find(|line| line.starts_with("7:0 "));
    let written = written.and_then(|line| line.split("wbytes=").nth(1)?.split(' ').next());
    assert_eq!(written, Some("262144"), "{counts}");
    // Less, and the limit is none; how much more, nobody says.
    assert!(since.elapsed().as_secs_f32() > 1.0);
}

/// Boots a systemd in namespaces of its own, which runs the script in that directory and ends.
#[track_caller]
fn systemd(scratch: &Scratch, script: &str) -> Ended {
    scratch.file("inside", script);
    for (name, text) in SYSTEMD {
        scratch.file(name, text);
    }
    // The group's only process is the one that becomes systemd, which makes groups below it.
    let begin = "
        mount -t tmpfs tmpfs /srv
        mkdir /srv/vm
        mount --bind . /srv/vm
        export group=/sys/fs/cgroup/systemd-$$
        mkdir $group
        unshare --mount --pid --fork --uts --ipc --kill-child sh -ec '
            echo 0 > $group/cgroup.procs
            exec unshare --cgroup sh -e boot'
    ";
    let ended = shell(scratch, begin);
    let [stdout, stderr, status] = ["stdout", "stderr", "status"].map(|name| scratch.text(name));
    assert_eq!((ended.status, status.trim()), (Some(0), "0"), "{ended:#?}\n{stdout}\n{stderr}");
    Ended { stdout, stderr, ..ended }
}

/// What systemd is started by, and all the units that it has: its bus, and the script. Nothing of the
/// host's own is started; it would empty /tmp.
const SYSTEMD: [(&str, &str); 7] = [
    (
        "boot",
        "umount /sys/fs/cgroup
        mount -t proc proc /proc
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        mount -t tmpfs -o mode=755 tmpfs /run
        mkdir -p /run/systemd/system
        cp *.socket *.service *.target /run/systemd/system
        for wants in /usr/lib/systemd/system/*.target.wants /etc/systemd/system/*.target.wants; do
            mount -t tmpfs tmpfs $wants
        done
        exec env -i container=brisk PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd \
            --unit=brisk-test.target --log-target=console --show-status=no
        ",
    ),
    ("sysinit.target", "[Unit]\nDefaultDependencies=no\n"),
    ("outer", "sh -e ./inside\necho $? > status\n"),
    (
        "dbus.socket",
        "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
    ),
    (
        "dbus.service",
        "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nType=notify\n\
         ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile \
         --systemd-activation\n",
    ),
    (
        "brisk-test.target",
        "[Unit]\nDefaultDependencies=no\nWants=dbus.service brisk-test.service\n",
    ),
    (
        "brisk-test.service",
        "[Unit]\nDefaultDependencies=no\nAfter=dbus.service\n[Service]\nType=oneshot\n\
         WorkingDirectory=/srv/vm\nStandardOutput=file:/srv/vm/stdout\n\
         StandardError=file:/srv/vm/stderr\nExecStart=/bin/sh ./outer\n\
         ExecStopPost=/bin/systemctl exit 0\n",
    ),
];

#[test]
fn systemd_run() {
    let scratch = place();
    boots(systemd(&scratch, &documented("systemd-run")));
}

/// And it is as hard as the page says.
#[test]
fn a_unit_of_systemd() {
    let scratch = place();
    scratch.file("vm.service", documented("unit"));
    let script = "systemctl daemon-reload\n\
                  systemctl start vm.service\n\
                  while systemctl is-active -q vm.service; do sleep 1; done\n\
                  cat /run/vm/log\n\
                  systemctl show --property=Result,ExecMainStatus,MemoryMax,TasksMax vm.service\n\
                  systemd-analyze security --no-pager vm.service | tail -n 1\n";
    let ended = systemd(&scratch, script);
    assert!(ended.stdout.contains(USERSPACE), "{ended:#?}");
    for line in ["Result=success", "ExecMainStatus=0", "MemoryMax=142606336", "TasksMax=8"] {
        assert!(ended.stdout.lines().any(|found| found == line), "{line}: {ended:#?}");
    }
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/features.md")).expect("it");
    let level =
        ended.stdout.split("Overall exposure level for vm.service: ").nth(1).expect("a level");
    let level: Vec<&str> = level.split(' ').take(2).collect();
    let said = format!("calls its exposure {}\nof 10, \"{}\"", level[0], level[1].trim());
    assert!(page.contains(&said), "not {said}");
}

/// With all that podman keeps where L1 can write.
#[test]
fn podman() {
    let scratch = place();
    let script = documented("podman").replace(
        "podman run",
        "podman --root /run/podman/root --runroot /run/podman/run --storage-driver vfs \
         --cgroup-manager cgroupfs --log-level error run",
    );
    boots(shell(
        &scratch,
        &format!("mkdir -p /run/podman/tmp; export TMPDIR=/run/podman/tmp\n{script}"),
    ));
}
