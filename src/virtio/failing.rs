//! A kernel that fails, for tests.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// What `body` gives on a thread on which `call` fails with `error`.
pub fn failing<T: Send>(
    call: libc::c_long,
    error: libc::c_int,
    body: impl FnOnce() -> T + Send,
) -> T {
    let rules = [(call, Vec::new())].into_iter().collect();
    let fail = SeccompAction::Errno(error as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, fail, TargetArch::x86_64);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    let on_it = || {
        seccompiler::apply_filter(&program).unwrap();
        body()
    };
    std::thread::scope(|scope| scope.spawn(on_it).join().unwrap())
}
