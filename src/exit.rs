//! Why KVM_RUN returned, as plain values.

use std::fmt;

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_OUT,
    KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, kvm_run,
};

/// Why the guest stopped running. Data slices are KVM's own exit page.
#[allow(missing_docs, reason = "the variants' comments name their fields")]
pub enum Exit<'a> {
    /// `in`: `data` holds `data.len() / width` accesses of `width` bytes, to be filled.
    PioIn { port: u16, width: u8, data: &'a mut [u8] },
    /// `out`: `data` holds `data.len() / width` accesses of `width` bytes.
    PioOut { port: u16, width: u8, data: &'a [u8] },
    /// A read of 1, 2, 4 or 8 bytes where no memory is.
    MmioRead { address: u64, data: &'a mut [u8] },
    /// A write of 1, 2, 4 or 8 bytes where no memory is.
    MmioWrite { address: u64, data: &'a [u8] },
    /// A signal arrived, or an immediate exit was asked for.
    Interrupted,
    /// The guest touched memory that the host cannot give: a mapped file is shorter than it was.
    MemoryGone,
    /// The guest cannot go on.
    Crash(Crash),
}

/// Why a guest cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Triple fault.
    Shutdown,
    /// KVM's KVM_SYSTEM_EVENT_* of this type.
    SystemEvent(u32),
    /// KVM could not go on; its suberror.
    InternalError(u32),
    /// The hardware refused to enter the guest; its reason.
    FailEntry(u64),
    /// An exit that nothing here asks for: to enter the guest again would be to come back for ever.
    Unexpected(u32),
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Crash::Shutdown => f.write_str("triple fault"),
            Crash::SystemEvent(kind) => write!(f, "KVM_EXIT_SYSTEM_EVENT {kind}"),
            Crash::InternalError(kind) => {
                write!(
                    f,
                    "KVM internal error {kind}: this machine's KVM cannot run what the guest executed"
                )
            }
            Crash::FailEntry(reason) => {
                write!(f, "the CPU refused to enter the guest: {reason:#x}")
            }
            Crash::Unexpected(reason) => {
                write!(f, "KVM exit reason {reason}, which brisk does not know")
            }
        }
    }
}

/// Reads the exit from the page that KVM filled; kvm-ioctls' own enum lacks the width of a port
/// access, without which a string access cannot be told from a wide one.
pub fn decode(run: &mut kvm_run) -> Exit<'_> {
    let page: *mut kvm_run = run;
    match run.exit_reason {
        KVM_EXIT_IO => {
            // SAFETY: KVM sets `io` for this exit reason.
            let io = unsafe { run.__bindgen_anon_1.io };
            // SAFETY: KVM placed `size * count` bytes at `data_offset` within the vCPU's mapping.
            let data = unsafe {
                std::slice::from_raw_parts_mut(
                    page.cast::<u8>().add(io.data_offset as usize),
                    usize::from(io.size) * io.count as usize,
                )
            };
            let (port, width) = (io.port, io.size);
            if u32::from(io.direction) == KVM_EXIT_IO_OUT {
                Exit::PioOut { port, width, data }
            } else {
                Exit::PioIn { port, width, data }
            }
        }
        KVM_EXIT_MMIO => {
            // SAFETY: KVM sets `mmio` for this exit reason.
            let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
            let length = (mmio.len as usize).min(mmio.data.len());
            let address = mmio.phys_addr;
            let data = &mut mmio.data[..length];
            if mmio.is_write != 0 {
                Exit::MmioWrite { address, data }
            } else {
                Exit::MmioRead { address, data }
            }
        }
        KVM_EXIT_INTR => Exit::Interrupted,
        _ => Exit::Crash(crash(run)),
    }
}

fn crash(run: &kvm_run) -> Crash {
    match run.exit_reason {
        KVM_EXIT_SHUTDOWN => Crash::Shutdown,
        KVM_EXIT_SYSTEM_EVENT => {
            // SAFETY: KVM sets `system_event` for this exit reason.
            Crash::SystemEvent(unsafe { run.__bindgen_anon_1.system_event.type_ })
        }
        KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: KVM sets `internal` for this exit reason.
            Crash::InternalError(unsafe { run.__bindgen_anon_1.internal.suberror })
        }
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: KVM sets `fail_entry` for this exit reason.
            let entry = unsafe { run.__bindgen_anon_1.fail_entry };
            Crash::FailEntry(entry.hardware_entry_failure_reason)
        }
        other => Crash::Unexpected(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_that_nobody_asked_for_is_named_by_its_number() {
        // SAFETY: all of it is numbers.
        let mut run: kvm_run = unsafe { std::mem::zeroed() };
        // HLT, which only a KVM without an interrupt controller gives; and one that Linux may yet get.
        for reason in [kvm_bindings::KVM_EXIT_HLT, 999] {
            run.exit_reason = reason;
            let Exit::Crash(crash) = decode(&mut run) else { panic!("{reason}") };
            assert_eq!(crash, Crash::Unexpected(reason));
            assert!(crash.to_string().starts_with(&format!("KVM exit reason {reason},")));
        }
        run.exit_reason = KVM_EXIT_SHUTDOWN;
        assert!(matches!(decode(&mut run), Exit::Crash(Crash::Shutdown)));
    }
}
