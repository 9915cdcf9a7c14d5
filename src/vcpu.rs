//! The vCPU loop: one match on exits.

use crate::bus::{Bus, End};
use crate::error::{Error, Result};
use crate::events;
use crate::exit::Exit;
use crate::kvm::Vcpu;
use crate::shared::Shared;

/// How the guest's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest or the user ended it.
    End(End),
    /// The guest cannot go on, for this reason.
    Crash(String),
}

/// Runs `vcpu` until the VM ends, or another one has ended it. The thread of the first, `id` 0, gets the
/// process's signals.
///
/// # Errors
/// KVM failed.
pub fn run(vcpu: &mut Vcpu, bus: &Shared<Bus>, id: u8) -> Result<Outcome> {
    let lock = || {
        let mut bus = bus.lock();
        bus.trace.begin(id);
        bus.catch_up();
        bus
    };
    // What was typed, or who wanted the VM to end, before signals made KVM_RUN return.
    events::attach(id, vcpu.run_page());
    if let Some(end) = bus.lock().poll(events::take()) {
        return Ok(Outcome::End(end));
    }
    loop {
        let end = match vcpu.run()? {
            #[cfg(feature = "pio-fast-path")]
            Exit::PioOut { port, width, data } => lock().fast_out(port, width, data),
            #[cfg(not(feature = "pio-fast-path"))]
            Exit::PioOut { port, width, data } => lock().pio_out(port, width, data),
            #[cfg(feature = "pio-fast-path")]
            Exit::PioIn { port, width, data } => lock().fast_in(port, width, data),
            #[cfg(not(feature = "pio-fast-path"))]
            Exit::PioIn { port, width, data } => lock().pio_in(port, width, data),
            Exit::MmioWrite { address, data } => lock().mmio_write(address, data),
            Exit::MmioRead { address, data } => {
                lock().mmio_read(address, data);
                None
            }
            Exit::Eoi(vector) => {
                lock().eoi(vector);
                None
            }
            Exit::Interrupted => {
                let events = events::take();
                let mut bus = lock();
                bus.count_interrupted();
                bus.poll(events)
            }
            Exit::MemoryGone if lock().mend_memory() => None,
            Exit::MemoryGone => {
                return Err(Error::Failed(
                    "KVM_RUN: the host has no memory for what the guest touched".into(),
                ));
            }
            Exit::Shutdown => return Ok(crash("triple fault")),
            Exit::SystemEvent(kind) => return Ok(crash(format!("KVM_EXIT_SYSTEM_EVENT {kind}"))),
            Exit::InternalError(kind) => {
                return Ok(crash(format!(
                    "KVM internal error {kind}: the guest executed what this KVM cannot run"
                )));
            }
            Exit::FailEntry(reason) => {
                return Ok(crash(format!("the CPU refused to enter the guest: {reason:#x}")));
            }
            Exit::Halt | Exit::Unexpected(_) => {
                lock().count_other();
                None
            }
        };
        if let Some(end) = end {
            return Ok(Outcome::End(end));
        }
    }
}

fn crash(reason: impl Into<String>) -> Outcome {
    Outcome::Crash(reason.into())
}
