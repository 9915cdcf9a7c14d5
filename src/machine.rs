//! Builds the machine, in the order in which its parts need one another, and runs it.

use brisk_boot::{VirtioMmio, layout};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::api::Api;
use crate::bus::{Bus, End};
use crate::cmdline::{self, Facts};
use crate::coalesced::Ring;
use crate::config::Config;
use crate::cpuid;
use crate::descriptors;
use crate::error::{Error, Result};
#[cfg(feature = "smp")]
use crate::events;
use crate::exit::Crash;
use crate::exit_status;
use crate::gate::Gate;
use crate::interrupts::{Interrupts, MAX_PINS};
#[cfg(feature = "api")]
use crate::interrupts::{Signal, Sink};
use crate::kvm::{System, Vcpu, Vm};
use crate::load::{Loaded, Loading};
use crate::measure::boot_timer::{BootTimer, Point};
use crate::measure::exit_stats::ExitStats;
use crate::measure::trace::Trace;
use crate::memory::Ram;
use crate::notify::Notify;
use crate::output;
use crate::paused::Paused;
use crate::seccomp;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, Source};
use crate::terminal;
use crate::uart::Uart;
use crate::vcpu::{self, Outcome};
use crate::virtio::{Devices, MAX_VIRTIO};

/// The mark of a warm reset, which Linux leaves at [`layout::RESET_FLAG`]
/// (`native_machine_emergency_restart`).
const WARM: u16 = 0x1234;

/// A virtual machine. It ends with the process and not before.
pub struct Machine {
    bus: Shared<Bus>,
    /// Each belongs to the thread that runs it, until that waits at the gate.
    vcpus: Vec<Shared<Vcpu>>,
    gate: Gate,
    memory: GuestMemoryMmap,
    config: &'static Config,
    snapshot: Snapshot,
    api: Api,
    /// The guest starts from nothing.
    #[cfg(feature = "smp")]
    boots: bool,
}

impl Machine {
    /// Builds the VM that `config` describes, up to its first instruction.
    ///
    /// # Errors
    /// Whatever keeps it from running.
    pub fn build(config: &'static Config) -> Result<&'static Machine> {
        let mut timer = BootTimer::start(config);
        let mut stats = ExitStats::start(config);
        let mut trace = Trace::start(config);

        let source = Source::of(config)?;
        let mut snapshot = Snapshot::prepare(config)?;
        let mut api = Api::prepare(config)?;
        let ram = source.map_ram(&config.memory)?;
        let (memory, ram_size) = (ram.guest().clone(), ram.size());
        let loading = source.boots().then(|| Loading::start(config, ram));
        trace.step("memory");

        let system = System::open()?;
        check_cpus(config, &system)?;
        let vm: &'static Vm = Box::leak(Box::new(system.create_vm()?));
        timer.mark(Point::VmCreated);
        let free_slot = Ram::register(&memory, vm)?;
        trace.step("VM");
        timer.mark(Point::MemoryReady);

        let serial = Uart::open(&config.serial);
        let ram_end = brisk_boot::ram_end(ram_size);
        let mut virtio = Devices::open(config, &memory, vm, free_slot, ram_end)?;
        source.restore_devices(&mut virtio)?;
        virtio.make_readable(vm, free_slot + MAX_VIRTIO as u32)?;
        trace.step("devices");
        let mut vcpus = create_vcpus(&system, vm, config, &source)?;
        snapshot.look_at(&system, vm, &vcpus[0])?;
        // Nothing is asked of KVM itself any more, and nobody who gets hold of our descriptors makes
        // another VM.
        drop(system);
        trace.step("vCPUs");

        let acpi = cmdline::has_acpi(&config.cmdline);
        let (windows, pci) = (virtio.windows(), virtio.pci_host());
        let facts = Facts {
            acpi,
            serial: serial.is_some(),
            pci: pci.is_some(),
            high_ram: ram_size > layout::HOLE_START,
            virtio: &windows,
        };
        // One that was saved has read its own.
        let text = if source.boots() { cmdline::make(config, &facts)? } else { Vec::new() };
        log::debug!("command line: {}", String::from_utf8_lossy(&text));
        let next_gsi =
            windows.iter().map(|window| window.gsi + 1).max().unwrap_or(layout::VIRTIO_MMIO_GSI);
        let generation = snapshot.generation(&source, acpi, next_gsi);
        let free_gsi = next_gsi + u32::from(generation.gsi().is_some());
        let power_button = api.button(source.button(), acpi, free_gsi);
        let others = [generation.gsi(), power_button];
        let (ioapic_gsi, ioapic_pins) = pins(acpi, serial.is_some(), &windows, others);
        if let Some(loading) = loading {
            let (mut ram, loaded) = loading.finish(&mut trace)?;
            trace.step("load");
            let description = brisk_boot::Machine {
                ram_size,
                cpus: config.cpus,
                cmdline: &text,
                initramfs: loaded.initramfs,
                serial: serial.is_some(),
                virtio_mmio: &windows,
                pci,
                ioapic_gsi,
                ioapic_pins,
                generation_id: generation.first()?,
                power_button,
            };
            vcpus[0].set_entry(&write_boot_data(&description, &loaded, &mut ram)?)?;
        }
        timer.mark(Point::KernelLoaded);
        stats.watch(vm, &vcpus);
        source.warm(&vcpus[0], &memory);

        let mut bus = Bus {
            vm,
            interrupts: Interrupts::new(vm, ioapic_gsi, ioapic_pins),
            serial,
            virtio,
            timer,
            stats,
            exit_status: Default::default(),
            trace,
            notify: Notify::open(config),
            snapshot_at: snapshot.at(),
            generation,
            // SAFETY: kvm-ioctls mapped it, and vCPUs are kept until the process ends.
            ring: unsafe { Ring::new(vcpus[0].run_page()) },
        };
        source.restore_rest(&mut bus, &memory)?;
        Ok(Box::leak(Box::new(Machine {
            bus: Shared::new(bus),
            vcpus: vcpus.into_iter().map(Shared::new).collect(),
            gate: Gate::new(),
            memory,
            config,
            snapshot,
            api,
            #[cfg(feature = "smp")]
            boots: source.boots(),
        })))
    }

    /// Runs it to its end on the calling thread, the process's first; answers the exit status.
    ///
    /// # Errors
    /// As [`Self::start`] and [`Self::enter`].
    pub fn run(&'static self) -> Result<u8> {
        self.start()?;
        loop {
            match self.enter()? {
                Outcome::End(End::Asked(_)) => self.api.serve(self),
                Outcome::End(End::Snapshot) if !self.snapshot.take(self.pause())? => {}
                outcome => return Ok(self.finish(outcome)),
            }
        }
    }

    /// Starts all vCPUs but the first, which wait in KVM for the guest's INIT and SIPI.
    ///
    /// # Errors
    /// An output cannot be opened, or there is no room for a thread.
    pub fn start(&'static self) -> Result<()> {
        {
            let mut bus = self.bus.lock();
            bus.timer.mark(Point::FirstEntry);
            bus.trace.step("boot data");
            bus.trace.enter(0);
        }
        output::open()?;
        self.api.open()?;
        start_others(self)?;
        seccomp::install(self.config.seccomp)
    }

    /// Runs the first vCPU until the guest or the user ends the VM.
    ///
    /// # Errors
    /// KVM failed.
    pub fn enter(&self) -> Result<Outcome> {
        loop {
            if let Some(outcome) = self.enter_as(0)? {
                return Ok(outcome);
            }
        }
    }

    /// Runs vCPU `id` until the VM ends or is paused.
    fn enter_as(&self, id: u8) -> Result<Option<Outcome>> {
        let mut vcpu = self.vcpus[usize::from(id)].lock();
        vcpu::run(&mut vcpu, &self.bus, &self.gate, id)
    }

    /// Stops all vCPUs. Those but the first are brought out of the guest, with what they asked for last
    /// done; then the devices finish what they have begun. To be called by the first vCPU's thread,
    /// outside of [`Self::enter`].
    pub fn pause(&self) -> Paused<'_> {
        self.gate.close(self.vcpus.len());
        let vcpus = self.vcpus.iter().map(Shared::lock).collect();
        self.bus.lock().quiesce();
        Paused {
            memory: &self.memory,
            bus: &self.bus,
            gate: &self.gate,
            vcpus,
            #[cfg(feature = "snapshot")]
            button: self.api.gsi(),
        }
    }

    /// Has the first vCPU's thread write what another one's code is for, which goes no further before.
    #[cfg(feature = "smp")]
    fn wait_to_be_saved(&self) {
        while self.bus.lock().snapshot_at.has_come() {
            self.gate.shut();
            self.gate.wait();
        }
    }

    /// One edge on the interrupt `gsi`; false where the guest would not have it.
    #[cfg(feature = "api")]
    pub fn press(&self, gsi: u8) -> bool {
        let mut bus = self.bus.lock();
        let heard = bus.interrupts.listens(gsi);
        bus.interrupts.signal(Signal::Gsi(gsi));
        heard
    }

    /// Writes it, standing still or `paused` for it, to the one directory that it may be written to.
    ///
    /// # Errors
    /// It was written already, or cannot be; then nothing stays.
    #[cfg(feature = "api")]
    pub fn save<'a>(&'a self, paused: &mut Option<Paused<'a>>) -> std::result::Result<(), String> {
        self.snapshot.write(|| self.pause(), paused)
    }

    /// What `--stats` would write by now; nothing where there is no such thing.
    #[cfg(feature = "api")]
    pub fn counters(&self) -> String {
        self.bus.lock().stats.counters()
    }

    /// Hands on what waits, writes the reports, and answers the exit status. The bus stays locked:
    /// no other vCPU does anything from here on.
    pub fn finish(&self, outcome: Outcome) -> u8 {
        let mut bus = self.bus.lock();
        bus.finish();
        terminal::restore();
        let flag = self.reset_flag();
        let outcome = match outcome {
            // It fell down on purpose.
            Outcome::Crash(Crash::Shutdown) if flag != layout::RESET_FLAG_UNTOUCHED => {
                Outcome::End(End::Reset)
            }
            other => other,
        };
        let status = match outcome {
            Outcome::End(End::Reset) if flag == WARM && cmdline::panic_is_warm(self.config) => {
                say(&format!("the guest's kernel panicked{}", terminal::hint()));
                exit_status::own(3)
            }
            Outcome::End(End::Quit) => exit_status::of_signal(),
            Outcome::End(_) => bus.exit_status.of_guest(),
            Outcome::Crash(reason) => {
                say(&format!("the guest crashed: {reason}{}", terminal::hint()));
                exit_status::own(3)
            }
        };
        std::mem::forget(bus);
        status
    }

    fn reset_flag(&self) -> u16 {
        let at = GuestAddress(layout::RESET_FLAG.start);
        self.memory.read_obj(at).unwrap_or(layout::RESET_FLAG_UNTOUCHED)
    }
}

/// Why the exit status is what it is: said in every build, at every level of the log.
fn say(reason: &str) {
    descriptors::say(&format!("brisk: {reason}\n"));
}

/// The first GSI of the IOAPIC, and how many pins it needs. Linux programs each one, at eight exits
/// and more, whether or not something is behind it. Without ACPI it takes the first pin for GSI 0.
fn pins(acpi: bool, serial: bool, virtio: &[VirtioMmio], others: [Option<u32>; 2]) -> (u8, u8) {
    let serial = serial.then_some(layout::COM1_GSI);
    let used =
        virtio.iter().map(|device| device.gsi).chain(serial).chain(others.into_iter().flatten());
    let Some(last) = used.clone().max() else { return (0, 0) };
    let first = if acpi { used.min().unwrap_or(0) } else { 0 };
    (first as u8, (last - first + 1).min(MAX_PINS as u32) as u8)
}

fn check_cpus(config: &Config, system: &System) -> Result<()> {
    if config.cpus > 1 && usize::from(config.cpus) > system.max_cpus() {
        return Err(Error::usage(format!(
            "--cpus boot={}: this KVM allows {}",
            config.cpus,
            system.max_cpus()
        )));
    }
    Ok(())
}

fn write_boot_data(
    machine: &brisk_boot::Machine<'_>,
    loaded: &Loaded,
    ram: &mut Ram,
) -> Result<brisk_boot::Entry> {
    let low = ram.low()?;
    brisk_boot::write(machine, loaded.protocol, loaded.entry, loaded.setup_header.as_ref(), low)
        .map_err(|error| Error::failed(format!("boot tables: {error}")))
}

fn create_vcpus(system: &System, vm: &Vm, config: &Config, source: &Source) -> Result<Vec<Vcpu>> {
    let supported = system.supported_cpuid()?;
    let intel = cpuid::is_intel(&supported);
    if intel {
        vm.prepare_intel()?;
    }
    (0..config.cpus)
        .map(|id| {
            let vcpu = vm.create_vcpu(id)?;
            if !source.boots() {
                source.restore_vcpu(vm, &vcpu, id, &supported)?;
                return Ok(vcpu);
            }
            let mut cpuid = supported.clone();
            cpuid::for_vcpu(&mut cpuid, id, config.cpus, config.nested)?;
            vcpu.set_cpuid(&cpuid)?;
            vcpu.set_msrs(intel)?;
            Ok(vcpu)
        })
        .collect()
}

/// Starts all vCPUs but the first, each on a thread.
#[cfg(feature = "smp")]
fn start_others(machine: &'static Machine) -> Result<()> {
    if machine.vcpus.len() > 1 {
        events::install_kick();
    }
    for (id, vcpu) in (0..).zip(&machine.vcpus).skip(1) {
        if machine.boots {
            vcpu.lock().set_waiting()?;
        }
        let run = move || {
            machine.bus.lock().trace.enter(id);
            loop {
                match machine.enter_as(id) {
                    Ok(None) => machine.gate.wait(),
                    Ok(Some(Outcome::End(End::Snapshot))) => machine.wait_to_be_saved(),
                    Ok(Some(outcome)) => crate::exit(Ok(machine.finish(outcome))),
                    Err(error) => crate::exit(Err(error)),
                }
            }
        };
        crate::threads::start(events::block_for_vcpu, &format!("vcpu{id}"), run)
            .map_err(|error| Error::failed(format!("--cpus: a thread for vCPU {id}: {error}")))?;
    }
    Ok(())
}

/// The first vCPU is the only one.
#[cfg(not(feature = "smp"))]
fn start_others(_: &Machine) -> Result<()> {
    Ok(())
}
