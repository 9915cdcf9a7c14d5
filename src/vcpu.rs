//! The vCPU loop: one match on exits.

use crate::bus::{Bus, End};
use crate::error::{Error, Result};
use crate::events;
use crate::exit::{Crash, Exit};
use crate::gate::Gate;
use crate::kvm::Vcpu;
use crate::shared::Shared;

/// How the guest's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest or the user ended it.
    End(End),
    /// The guest cannot go on.
    Crash(Crash),
}

/// Runs `vcpu` until the VM ends, or another one has ended it; `None` where it ought to wait at `gate`.
/// The thread of the first, `id` 0, gets the process's signals, and that one never has to wait.
///
/// # Errors
/// KVM failed.
pub fn run(vcpu: &mut Vcpu, bus: &Shared<Bus>, gate: &Gate, id: u8) -> Result<Option<Outcome>> {
    let lock = || {
        let mut bus = bus.lock();
        bus.trace.begin(id);
        bus.catch_up();
        bus
    };
    // What was typed, or who wanted the VM to end, before signals made KVM_RUN return.
    events::attach(id, vcpu.run_page());
    if let Some(end) = bus.lock().poll(events::take()) {
        return Ok(Some(Outcome::End(end)));
    }
    let has_to_wait = || id > 0 && gate.closed();
    if has_to_wait() {
        return Ok(None);
    }
    loop {
        let end = match vcpu.run()? {
            Exit::PioOut { port, width, data } => lock().fast_out(port, width, data),
            Exit::PioIn { port, width, data } => lock().fast_in(port, width, data),
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
                let end = bus.poll(events);
                drop(bus);
                if end.is_none() && has_to_wait() {
                    return Ok(None);
                }
                end
            }
            Exit::MemoryGone if lock().mend_memory() => None,
            Exit::MemoryGone => {
                return Err(Error::Failed(
                    "KVM_RUN: the host has no memory for what the guest touched".into(),
                ));
            }
            Exit::Crash(crash) => return Ok(Some(Outcome::Crash(crash))),
        };
        if let Some(end) = end {
            return Ok(Some(Outcome::End(end)));
        }
    }
}
