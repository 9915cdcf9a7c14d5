//! brisk inside what `features.md` names to shut it in: the command lines are these.

use std::process::Command;

use super::common::{Ended, Scratch, brisk, kernel::Elf, run};
use super::guests;

/// A directory with brisk and a guest that resets, which anybody may read.
fn place() -> Scratch {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let program = brisk().get_program().to_owned();
    std::fs::copy(program, scratch.path("brisk")).expect("a copy of brisk");
    scratch.file("vmlinux", Elf::new(guests::RESET, &[]).file());
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(scratch.path(""), all).expect("permissions");
    scratch
}

/// Runs a script of the shell in that directory.
fn shell(scratch: &Scratch, script: &str) -> Ended {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(scratch.path(""));
    run(&mut command)
}

#[test]
fn bubblewrap() {
    let scratch = place();
    let script = "\
        bwrap --unshare-all --die-with-parent --new-session --cap-drop ALL \
            --ro-bind /lib /lib --ro-bind /lib64 /lib64 --ro-bind /usr/lib /usr/lib \
            --ro-bind brisk /brisk --ro-bind vmlinux /vmlinux --dev-bind /dev/kvm /dev/kvm \
            /brisk --kernel /vmlinux --memory size=16M --serial null";
    shell(&scratch, script).silent().with_status(0);
}

/// As a user of its own, who has /dev/kvm by its group; a log that the guest fills ends at the limit.
#[test]
fn unshare_and_setpriv() {
    // SAFETY: asks for a number.
    assert_eq!(unsafe { libc::geteuid() }, 0, "only root can become another user");
    let scratch = place();
    let script = "\
        unshare --mount --net --ipc --uts --pid --fork --cgroup sh -ec '\
            mknod kvm c 10 232; chgrp 65534 kvm; chmod 660 kvm; mount --bind kvm /dev/kvm; \
            ulimit -f 2048; \
            exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
                --bounding-set=-all --inh-caps=-all \
                ./brisk --kernel vmlinux --memory size=16M --serial null'";
    shell(&scratch, script).silent().with_status(0);
}
