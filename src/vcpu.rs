//! The vCPU loop: one match on exits.

use crate::bus::{Bus, End};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::kvm::Vcpu;
use crate::shared::Shared;
use crate::signals;

/// How the guest's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest or the user ended it.
    End(End),
    /// The guest cannot go on, for this reason.
    Crash(String),
}

/// Runs `vcpu` until the VM ends. The thread of the first, `id` 0, gets the signals.
///
/// # Errors
/// KVM failed.
pub fn run(vcpu: &mut Vcpu, bus: &Shared<Bus>, id: u8) -> Result<Outcome> {
    let lock = || {
        let mut bus = bus.lock();
        bus.trace.begin(id);
        #[cfg(feature = "coalesced-serial")]
        bus.catch_up();
        bus
    };
    // What was typed, or who wanted the VM to end, before signals made KVM_RUN return.
    if id == 0 && (signals::stop() || bus.lock().input()) {
        return Ok(Outcome::End(End::Quit));
    }
    loop {
        match vcpu.run()? {
            Exit::PioOut { port, width, data } => {
                let mut bus = lock();
                #[cfg(feature = "pio-fast-path")]
                if bus.fast_out(port, data) {
                    continue;
                }
                if let Some(end) = bus.pio_out(port, width, data) {
                    return Ok(Outcome::End(end));
                }
            }
            Exit::PioIn { port, width, data } => {
                let mut bus = lock();
                #[cfg(feature = "pio-fast-path")]
                if bus.fast_in(port, width, data) {
                    continue;
                }
                bus.pio_in(port, width, data);
            }
            Exit::MmioWrite { address, data } => lock().mmio_write(address, data),
            Exit::MmioRead { address, data } => lock().mmio_read(address, data),
            Exit::Eoi(vector) => lock().eoi(vector),
            Exit::Interrupted if id == 0 => {
                signals::rearm();
                let mut bus = lock();
                bus.count_interrupted();
                if signals::stop() || bus.input() {
                    return Ok(Outcome::End(End::Quit));
                }
            }
            Exit::Interrupted => {}
            #[cfg(feature = "pmem")]
            Exit::MemoryGone if lock().virtio.mend_memory() => {}
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
            Exit::Halt | Exit::Unexpected(_) => lock().count_other(),
        }
    }
}

fn crash(reason: impl Into<String>) -> Outcome {
    Outcome::Crash(reason.into())
}
