//! What a forbidden call comes to where there may be a terminal.

use crate::last_words;

/// `_sigsys` of `siginfo_t` (asm-generic/siginfo.h): address, then the call's number.
const SI_SYSCALL: usize = 24;

/// Has SIGSYS end the VM in order.
pub fn catch() {
    // SAFETY: an all-zero sigaction is valid; the handler neither allocates nor returns.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut());
    }
}

/// The call was made by code that is not ours, or is a fault of ours. Nothing is to be trusted but
/// what it takes to say so.
extern "C" fn handle(
    _signal: libc::c_int,
    info: *const libc::siginfo_t,
    context: *const libc::ucontext_t,
) {
    // SAFETY: the kernel hands both over, with this field for this signal.
    let (number, registers) =
        unsafe { (info.byte_add(SI_SYSCALL).cast::<i32>().read(), (*context).uc_mcontext.gregs) };
    let [first, second] = [libc::REG_RDI, libc::REG_RSI].map(|at| registers[at as usize]);
    last_words::end(format_args!(
        "system call {number} ({first:#x}, {second:#x}) is forbidden while the guest runs; if it is \
         brisk's own, please report it, and run with --seccomp false"
    ))
}
