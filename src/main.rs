//! The `brisk` command.
//!
//! `main` is C's, called by the C library's start-up code without Rust's in between: that one polls
//! three descriptors, reads `/proc/self/maps` for the stack's guard page and sets signal handlers,
//! 16 system calls for what a VMM that never unwinds does not use.
#![no_main]

use std::ffi::{c_char, c_int};

/// Where the C library's start-up code goes. The arguments come by [`std::env::args_os`], which the
/// standard library fills before this.
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    brisk::main()
}
