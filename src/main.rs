//! The `brisk` command.
//!
//! `main` is C's, called by the C library's start-up code without Rust's in between: that one polls
//! three descriptors, reads `/proc/self/maps` for the stack's guard page and sets signal handlers,
//! 16 system calls for what a VMM that never unwinds does not use.
#![no_main]

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

#[cfg(any(target_feature = "crt-static", target_env = "musl"))]
#[global_allocator]
static HEAP: brisk::heap::Allocator = brisk::heap::Allocator::new();

/// Where the C library's start-up code goes. The arguments are its own, since
/// [`std::env::args_os`] has them from glibc only.
///
/// # Safety
/// As C has it: `argv` is an array of `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let argument = |index: c_int| -> OsString {
        // SAFETY: as the caller says.
        let argument = unsafe { CStr::from_ptr(*argv.add(index as usize)) };
        OsStr::from_bytes(argument.to_bytes()).to_owned()
    };
    // The first is the program's name.
    brisk::main((1..argc).map(argument).collect())
}
