//! What is said where brisk itself has a fault, or no memory is left, or its process is no longer its own.
//!
//! The standard library's own handlers print a backtrace: a reader of DWARF, an inflater and a
//! demangler, 150 to 200 KB in a binary that has neither symbols nor DWARF. `cargo xtask build` has the
//! linker put these in their place (`xtask/src/build/handlers.rs`); in other builds nothing calls
//! them.

use std::fmt::{self, Write};

use crate::{exit_status, terminal};

/// In place of std's `#[panic_handler]`.
#[unsafe(no_mangle)]
fn brisk_panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    end(format_args!("{info}\nThis is a fault in brisk: please report it."))
}

/// In place of std's handler of failed allocations.
#[unsafe(no_mangle)]
fn brisk_has_no_memory(size: usize, _align: usize) -> ! {
    end(format_args!("no memory for {size} bytes; stop something else, or raise the limit"))
}

/// Says `text` and ends the process, with the terminal as it was; nothing is allocated.
pub fn end(text: fmt::Arguments<'_>) -> ! {
    terminal::restore();
    let _ = writeln!(StandardError, "brisk: {text}");
    // SAFETY: ends the process.
    unsafe { libc::_exit(exit_status::own(1).into()) }
}

/// Written to without a buffer, which would have to be allocated.
struct StandardError;

impl Write for StandardError {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: standard error is never closed; the text's own bytes.
        match unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) } {
            -1 => Err(fmt::Error),
            _ => Ok(()),
        }
    }
}
