//! Builds the machine, in the order in which its parts need one another, and runs it.

use std::mem::ManuallyDrop;

use brisk_boot::{Machine, VirtioMmio, cmdline, layout};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::bus::{Bus, End};
use crate::config::Config;
use crate::cpuid;
use crate::descriptors;
use crate::error::{Error, Result};
use crate::events;
use crate::interrupts::{Interrupts, MAX_PINS};
use crate::kvm::{System, Vcpu, Vm};
use crate::load::Loaded;
use crate::load::Loading;
#[cfg(feature = "boot-timer")]
use crate::measure::boot_timer::{BootTimer, Point};
#[cfg(feature = "exit-stats")]
use crate::measure::exit_stats::ExitStats;
use crate::measure::trace::Trace;
use crate::memory::Ram;
use crate::shared::Shared;
#[cfg(feature = "serial")]
use crate::uart::Uart;
use crate::vcpu::{self, Outcome};
#[cfg(feature = "mmio")]
use crate::virtio::Devices;

/// What makes a boot shorter or its end clearer, where the user did not say otherwise.
///
/// - `panic=-1`: a panic ends the VM at once. With `reboot=panic_warm` the kernel marks that reset
///   as a warm one, by which a panic is told from a reboot.
/// - `8250.nr_uarts=`: the one UART or none; do not probe those that are not there.
/// - `pty.legacy_count=0`: no BSD pseudo terminals, `/dev/ptyp0` and its like, of which
///   `CONFIG_LEGACY_PTYS` makes 256 with a device each. Programs use `/dev/ptmx`.
/// - `swiotlb=noforce` (not in this list, only where there is RAM above 4 GiB): no 64 MiB of buffers for
///   devices that cannot reach it. virtio's can.
/// - `pci=off`, the last one: where there is no PCI, do not look for it through ports 0xcf8 and 0xcfc.
///
/// A word that does nothing is not free: Linux compares each with the names of all its parameters, ten
/// times, which takes 0.1 ms. So `no_timer_check` is not here, as a kernel that knows KVM sets it itself,
/// nor `tsc=reliable`, as it trusts a TSC that never stops anyway.
const DEFAULTS: [&str; 5] = ["panic=-1", PANIC_IS_WARM, ONE_UART, "pty.legacy_count=0", NO_PCI];
const ONE_UART: &str = "8250.nr_uarts=1";
const NO_UART: &str = "8250.nr_uarts=0";
const NO_PCI: &str = "pci=off";
const NO_BOUNCING: &str = "swiotlb=noforce";
const PANIC_IS_WARM: &str = "reboot=panic_warm";
/// The same where the kernel has no ACPI to reset by: port 0xcf9 instead of a keyboard controller
/// that is not there, which it would ask 655,360 times.
const PANIC_IS_WARM_BY_PORT: &str = "reboot=p,panic_warm";
/// Where Linux leaves how it reset the machine, and the mark of a warm reset
/// (`native_machine_emergency_restart`).
const RESET_FLAG: GuestAddress = GuestAddress(0x472);
const WARM: u16 = 0x1234;

/// Instead of `pci=off` where there is PCI. Without it Linux looks for devices with quirks before it
/// can use the enhanced configuration space, by 110 accesses to ports that do not answer, 0.95 ms in
/// the lab. The price is a line in its log, "PCI: Fatal: No config space access function found",
/// though it finds one a little later.
#[cfg(feature = "pci")]
const PCI_WORD: &str = "pci=noearly";
#[cfg(feature = "pci")]
const PCI_HOST: brisk_boot::PciHost = brisk_boot::PciHost {
    ecam_base: layout::PCI_ECAM_BASE,
    last_bus: (crate::bus::PCI_BUSES - 1) as u8,
    mem32: layout::PCI_MEM32,
    mem64: None,
};

/// All that ends with the process and not before.
struct Machinery {
    bus: Shared<Bus>,
    memory: GuestMemoryMmap,
    panic_is_warm: bool,
}

/// Runs the VM that `config` describes; answers the exit status.
///
/// # Errors
/// Whatever kept it from running.
pub fn run(config: Box<Config>) -> Result<u8> {
    let config: &'static Config = Box::leak(config);
    #[cfg(feature = "boot-timer")]
    let mut timer = BootTimer::start(config.boot_log.as_deref(), config.timeline);
    #[cfg(feature = "exit-stats")]
    let mut stats = ExitStats::start(config.stats.as_deref());
    let mut trace = Trace::start(config);
    events::install();

    let ram = Ram::map(&config.memory)?;
    let guest = ram.guest().clone();
    let ram_size = ram.size();
    let loading = Loading::start(config, ram);
    trace.step("memory");

    let system = System::open()?;
    if config.cpus > 1 && usize::from(config.cpus) > system.max_cpus() {
        return Err(Error::Usage(format!(
            "--cpus boot={}: this KVM allows {}",
            config.cpus,
            system.max_cpus()
        )));
    }
    let vm: &'static Vm = Box::leak(Box::new(system.create_vm()?));
    #[cfg(feature = "boot-timer")]
    timer.mark(Point::VmCreated);
    let free_slot = Ram::register(&guest, vm)?;
    trace.step("VM");
    #[cfg(feature = "boot-timer")]
    timer.mark(Point::MemoryReady);

    #[cfg(feature = "serial")]
    let serial = Uart::open(&config.serial);
    #[cfg(feature = "mmio")]
    let virtio = {
        let ram_end = brisk_boot::ram_end(ram_size);
        #[allow(unused_mut, reason = "only PCI has more to do")]
        let mut slots = Devices::open(config, &guest, vm, free_slot, ram_end)?;
        #[cfg(feature = "pci")]
        slots.make_readable(vm, free_slot + crate::virtio::MAX_VIRTIO as u32)?;
        slots
    };
    #[cfg(feature = "mmio")]
    let announced = virtio.windows();
    #[cfg(not(feature = "mmio"))]
    let (announced, _): ([VirtioMmio; 0], _) = ([], free_slot);
    trace.step("devices");
    // Kept to the end even where that is an error: events and the bus know the first one's page.
    let mut vcpus = ManuallyDrop::new(create_vcpus(&system, vm, config)?);
    // Nothing is asked of KVM itself any more, and nobody who gets hold of our descriptors makes
    // another VM.
    drop(system);
    trace.step("vCPUs");
    #[cfg(feature = "pci")]
    let (pci, pci_word) = match virtio.over_pci() {
        true => (Some(PCI_HOST), Some(PCI_WORD)),
        false => (None, None),
    };
    #[cfg(not(feature = "pci"))]
    let (pci, pci_word) = (None, None);
    #[cfg(feature = "serial")]
    let has_serial = serial.is_some();
    #[cfg(not(feature = "serial"))]
    let has_serial = false;
    let acpi = !cmdline::has(config.cmdline.as_bytes(), b"acpi=off");
    let (line, panic_is_warm) = command_line(config, acpi, has_serial, pci_word, &announced)?;
    log::debug!("command line: {}", String::from_utf8_lossy(&line));
    let (ioapic_gsi, ioapic_pins) = pins(acpi, has_serial, &announced);
    let (mut ram, loaded) = loading.finish(&mut trace)?;
    trace.step("load");
    let machine = Machine {
        ram_size,
        cpus: config.cpus,
        cmdline: &line,
        initramfs: loaded.initramfs,
        serial: has_serial,
        virtio_mmio: &announced,
        pci,
        ioapic_gsi,
        ioapic_pins,
    };
    let entry = write_boot_data(&machine, &loaded, &mut ram)?;
    #[cfg(feature = "boot-timer")]
    timer.mark(Point::KernelLoaded);
    #[cfg(feature = "exit-stats")]
    stats.watch(vm.as_raw_fd(), vcpus.iter().map(Vcpu::as_raw_fd));
    let first = &mut vcpus[0];
    first.set_entry(&entry)?;
    #[cfg(feature = "boot-timer")]
    timer.mark(Point::FirstEntry);
    trace.step("boot data");
    trace.enter(0);

    let bus = Bus {
        #[cfg(feature = "coalesced-serial")]
        vm,
        interrupts: Interrupts::new(vm, ioapic_gsi, ioapic_pins),
        #[cfg(feature = "serial")]
        serial,
        #[cfg(feature = "mmio")]
        virtio,
        #[cfg(feature = "boot-timer")]
        timer,
        #[cfg(feature = "exit-stats")]
        stats,
        trace,
        #[cfg(feature = "coalesced-serial")]
        // SAFETY: kvm-ioctls mapped it, and vCPUs are kept until the process ends.
        ring: unsafe { crate::coalesced::Ring::new(first.run_page()) },
    };
    let machinery: &'static Machinery =
        Box::leak(Box::new(Machinery { bus: Shared::new(bus), memory: guest, panic_is_warm }));
    #[cfg(any(
        feature = "boot-timer",
        feature = "exit-stats",
        feature = "trace",
        feature = "serial",
        feature = "console"
    ))]
    crate::output::open()?;
    #[cfg(feature = "smp")]
    start_others(&mut vcpus, machinery)?;
    #[cfg(feature = "seccomp")]
    crate::seccomp::install(config.seccomp)?;
    let outcome = vcpu::run(&mut vcpus[0], &machinery.bus, 0)?;
    Ok(machinery.finish(outcome))
}

impl Machinery {
    /// Hands on what waits, writes the reports, and answers the exit status. The bus stays locked:
    /// no other vCPU does anything from here on.
    fn finish(&self, outcome: Outcome) -> u8 {
        #[allow(unused_mut, reason = "not every build has something to finish")]
        let mut bus = self.bus.lock();
        #[cfg(feature = "coalesced-serial")]
        bus.catch_up();
        #[cfg(feature = "serial")]
        if let Some(serial) = &mut bus.serial {
            serial.flush();
        }
        #[cfg(any(feature = "serial", feature = "console"))]
        crate::terminal::restore();
        #[cfg(feature = "boot-timer")]
        bus.timer.finish();
        #[cfg(feature = "exit-stats")]
        bus.stats.finish();
        bus.trace.finish();
        let status = match outcome {
            Outcome::End(End::Reset) if self.panicked() => {
                say("the guest's kernel panicked");
                3
            }
            Outcome::End(_) => 0,
            Outcome::Crash(reason) => {
                say(&format!("the guest crashed: {reason}"));
                3
            }
        };
        std::mem::forget(bus);
        status
    }

    fn panicked(&self) -> bool {
        self.panic_is_warm && self.memory.read_obj::<u16>(RESET_FLAG).is_ok_and(|flag| flag == WARM)
    }
}

/// Why the exit status is what it is: said in every build, at every level of the log.
fn say(reason: &str) {
    descriptors::say(&format!("brisk: {reason}\n"));
}

/// The kernel's command line, and whether a panic will mark itself as a warm reset.
///
/// A kernel that is told `acpi=off`, or that has none and does not mind the word, finds its virtio
/// devices by `virtio_mmio.device=`.
fn command_line(
    config: &Config,
    acpi: bool,
    serial: bool,
    pci: Option<&'static str>,
    _virtio: &[VirtioMmio],
) -> Result<(Vec<u8>, bool)> {
    let user = config.cmdline.as_bytes();
    let wrong = |error| Error::Usage(format!("--cmdline: {error}"));
    if config.cmdline_exact {
        cmdline::check(user).map_err(wrong)?;
        return Ok((user.to_vec(), false));
    }
    let mut line = Default::default();
    let mut defaults = DEFAULTS.to_vec();
    if let Some(word) = pci {
        defaults[DEFAULTS.len() - 1] = word;
    }
    if !acpi {
        defaults[1] = PANIC_IS_WARM_BY_PORT;
    }
    if !serial {
        defaults[2] = NO_UART;
    }
    if config.memory.size > layout::HOLE_START {
        defaults.push(NO_BOUNCING);
    }
    #[cfg(feature = "mmio")]
    let devices: Vec<String> = match acpi {
        true => Vec::new(),
        false => _virtio.iter().map(device_word).collect(),
    };
    #[cfg(feature = "mmio")]
    defaults.extend(devices.iter().map(String::as_str));
    cmdline::with_defaults(user, &defaults, &mut line).map_err(wrong)?;
    let ours = [PANIC_IS_WARM, PANIC_IS_WARM_BY_PORT];
    let ours = ours.iter().any(|word| cmdline::has(&line, word.as_bytes()));
    Ok((line.to_vec(), ours))
}

/// A device for a kernel without ACPI (Linux, `drivers/virtio/virtio_mmio.c`).
#[cfg(feature = "mmio")]
fn device_word(device: &VirtioMmio) -> String {
    format!("virtio_mmio.device={}@{:#x}:{}", device.size, device.base, device.gsi)
}

/// The first GSI of the IOAPIC, and how many pins it needs. Linux programs each one, at eight exits
/// and more, whether or not something is behind it. Without ACPI it takes the first pin for GSI 0.
fn pins(acpi: bool, serial: bool, virtio: &[VirtioMmio]) -> (u8, u8) {
    let serial = serial.then_some(layout::COM1_GSI);
    let used = virtio.iter().map(|device| device.gsi).chain(serial);
    let Some(last) = used.clone().max() else { return (0, 0) };
    let first = if acpi { used.min().unwrap_or(0) } else { 0 };
    (first as u8, (last - first + 1).min(MAX_PINS as u32) as u8)
}

fn write_boot_data(
    machine: &Machine<'_>,
    loaded: &Loaded,
    ram: &mut Ram,
) -> Result<brisk_boot::Entry> {
    let low = ram.low()?;
    brisk_boot::write(machine, loaded.protocol, loaded.entry, loaded.setup_header.as_ref(), low)
        .map_err(|error| Error::Failed(format!("boot tables: {error}")))
}

fn create_vcpus(system: &System, vm: &Vm, config: &Config) -> Result<Vec<Vcpu>> {
    let supported = system.supported_cpuid()?;
    let intel = cpuid::is_intel(&supported);
    if intel {
        vm.prepare_intel()?;
    }
    (0..config.cpus)
        .map(|id| {
            let vcpu = vm.create_vcpu(id)?;
            let mut cpuid = supported.clone();
            cpuid::for_vcpu(&mut cpuid, id, config.cpus)?;
            vcpu.set_cpuid(&cpuid)?;
            vcpu.set_msrs(intel)?;
            Ok(vcpu)
        })
        .collect()
}

/// Starts all vCPUs but the first, each on a thread; they wait in KVM for the guest's INIT and SIPI.
#[cfg(feature = "smp")]
fn start_others(vcpus: &mut Vec<Vcpu>, machinery: &'static Machinery) -> Result<()> {
    if vcpus.len() > 1 {
        events::install_kick();
    }
    for (id, mut vcpu) in vcpus.drain(1..).enumerate() {
        vcpu.set_waiting()?;
        let run = move || {
            let id = id as u8 + 1;
            machinery.bus.lock().trace.enter(id);
            let result = vcpu::run(&mut vcpu, &machinery.bus, id);
            crate::exit(result.map(|outcome| machinery.finish(outcome)))
        };
        crate::threads::start(events::block_for_vcpu, format!("vcpu{}", id + 1), run).map_err(
            |error| Error::Failed(format!("--cpus: a thread for vCPU {}: {error}", id + 1)),
        )?;
    }
    Ok(())
}
