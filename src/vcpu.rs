//! The vCPU loop: one match on exits.

use crate::api;
use crate::bus::{Access, Bus, End};
use crate::error::{Error, Result};
use crate::events::{self, Events};
use crate::exit::{Crash, Exit};
use crate::gate::Gate;
use crate::kvm::Vcpu;
use crate::shared::{Guard, Shared};
use crate::stuck::Watch;

/// How the guest's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest or the user ended it.
    End(End),
    /// The guest cannot go on.
    Crash(Crash),
}

/// Runs `vcpu` until the VM ends, or another one has ended it; `None` where it ought to wait at `gate`.
/// The thread of the first, `id` 0, gets the process's signals, and that one never has to wait: where the
/// gate is closed, another one wants the VM to be saved.
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
    if let Some(end) = poll(bus, events::take()) {
        return Ok(Some(Outcome::End(end)));
    }
    if let Some(asked) = api::asked(id) {
        return Ok(Some(Outcome::End(End::Asked(asked))));
    }
    let at_gate = || (id == 0).then_some(Outcome::End(End::Snapshot));
    if gate.closed() {
        return Ok(at_gate());
    }
    let mut watch = Watch::new();
    loop {
        let end = match vcpu.run()? {
            Exit::PioOut { port, width, data } => lock().fast_out(port, width, data),
            Exit::PioIn { port, width, data } => lock().fast_in(port, width, data),
            Exit::MmioWrite { address, data } => write(bus, lock(), address, data),
            Exit::MmioRead { address, data } => {
                lock().mmio_read(address, data);
                None
            }
            Exit::Interrupted => {
                let events = events::take();
                lock().count_interrupted();
                if watch.is_stuck(vcpu) {
                    bus.lock().repair_memory();
                }
                let end = poll(bus, events);
                if end.is_none() && gate.closed() {
                    return Ok(at_gate());
                }
                end.or_else(|| api::asked(id).map(End::Asked))
            }
            Exit::MemoryGone if lock().repair_memory() => None,
            Exit::MemoryGone => {
                return Err(Error::failed(
                    "KVM_RUN: the host has no memory for what the guest touched; see the limits of this \
                     process's cgroup (memory.max, hugetlb.*.max), or give the guest less --memory"
                        .into(),
                ));
            }
            Exit::Crash(crash) => return Ok(Some(Outcome::Crash(crash))),
        };
        if let Some(end) = end {
            return Ok(Some(Outcome::End(end)));
        }
    }
}

/// Hands `events` to the devices, and does what they leave to be done.
fn poll(bus: &Shared<Bus>, events: Events) -> Option<End> {
    let polled = bus.lock().poll(events);
    let mut end = polled.end;
    for job in polled.jobs {
        let done = job.run();
        end = end.or(bus.lock().served(done, None));
    }
    end
}

/// The guest's write. A queue that it notifies is moved without the bus: where that waits for the host,
/// the other vCPUs' exits do not.
fn write(bus: &Shared<Bus>, mut locked: Guard<'_, Bus>, address: u64, data: &[u8]) -> Option<End> {
    match locked.mmio_write(address, data) {
        Access::Notified(job) => {
            let stamp = locked.trace.stamp();
            drop(locked);
            let done = job.run();
            let mut bus = bus.lock();
            bus.trace.resume(stamp);
            bus.served(done, Some(address))
        }
        access => access.end(),
    }
}
