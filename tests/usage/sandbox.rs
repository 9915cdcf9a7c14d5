//! Processes that see less of the machine: for a host without `/dev/kvm`, and for a root that obeys
//! permissions.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io::{Error, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// `CAP_DAC_OVERRIDE` and `CAP_DAC_READ_SEARCH` (capabilities(7)).
const OVERRIDES: [libc::c_ulong; 2] = [1, 2];

/// Makes file permissions count for `command` even where the tests run as root.
pub fn obey_permissions(command: &mut Command) {
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } == 0 {
        // SAFETY: the function only makes system calls.
        unsafe { command.pre_exec(drop_overrides) };
    }
}

/// Runs `command` where `/dev` is empty.
pub fn without_kvm(command: &mut Command) {
    let maps = maps();
    // SAFETY: the function only makes system calls.
    unsafe { command.pre_exec(move || empty_dev(maps.as_ref())) };
}

/// Runs `command` where `/dev/kvm` is there and nobody may open it.
pub fn with_forbidden_kvm(command: &mut Command) {
    let maps = maps();
    let forbid = move || {
        empty_dev(maps.as_ref())?;
        // SAFETY: a constant path, and a descriptor that stays open until exec.
        let made = unsafe { libc::open(c"/dev/kvm".as_ptr(), libc::O_CREAT | libc::O_CLOEXEC, 0) };
        check(made)?;
        drop_overrides()
    };
    // SAFETY: the function only makes system calls.
    unsafe { command.pre_exec(forbid) };
}

/// Runs `command` where these system calls fail with `error`.
pub fn without_calls(command: &mut Command, calls: &[libc::c_long], error: libc::c_int) {
    filter(command, calls.iter().map(|&call| (call, Vec::new())).collect(), error);
}

/// Runs `command` where `call` fails with `error` if its argument of this number has this value.
pub fn without_call(
    command: &mut Command,
    call: libc::c_long,
    (number, value): (u8, u64),
    error: libc::c_int,
) {
    let is = SeccompCondition::new(number, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let rule = is.and_then(|is| SeccompRule::new(vec![is])).expect("a rule");
    filter(command, [(call, vec![rule])].into(), error);
}

fn filter(command: &mut Command, rules: BTreeMap<i64, Vec<SeccompRule>>, error: libc::c_int) {
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(error.unsigned_abs()),
        TargetArch::x86_64,
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
    let apply = move || seccompiler::apply_filter(&program).map_err(|_| Error::last_os_error());
    // SAFETY: the function only makes system calls.
    unsafe { command.pre_exec(apply) };
}

/// What a user namespace needs to be told: ourselves, as we are. `None` for root, who needs none.
fn maps() -> Option<[(&'static CStr, CString); 3]> {
    // SAFETY: asks for numbers.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let line = |id: u32| CString::new(format!("{id} {id} 1")).expect("no NUL");
    (user != 0).then(|| {
        [
            (c"/proc/self/setgroups", c"deny".into()),
            (c"/proc/self/uid_map", line(user)),
            (c"/proc/self/gid_map", line(group)),
        ]
    })
}

fn empty_dev(maps: Option<&[(&CStr, CString); 3]>) -> Result<()> {
    let user = if maps.is_some() { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: system calls with constant strings; the child has one thread.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS | user))?;
        for (path, text) in maps.into_iter().flatten() {
            let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            check(file)?;
            let written = libc::write(file, text.as_ptr().cast(), text.as_bytes().len());
            check(written as i32)?;
        }
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(null(), c"/".as_ptr(), null(), private, null()))?;
        let tmpfs = c"tmpfs".as_ptr();
        check(libc::mount(tmpfs, c"/dev".as_ptr(), tmpfs, 0, null()))
    }
}

fn drop_overrides() -> Result<()> {
    for capability in OVERRIDES {
        // SAFETY: plain numbers. exec then gives root no more than the bounding set has.
        check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })?;
    }
    Ok(())
}

fn check(result: i32) -> Result<()> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}
