//! Every call to KVM, one line an ioctl.
//!
//! The interrupt controller is split (KVM_CAP_SPLIT_IRQCHIP): the local APICs, whose timers and
//! IPIs must be fast, live in the kernel; the IOAPIC, which a boot only programs once, is ours, so
//! that it has just the pins that are used. There is no PIC and no PIT at all.

#[cfg(feature = "snapshot")]
pub mod state;

use brisk_boot::{Entry, Segment};
use brisk_devices::Msi;
use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_enable_cap, kvm_msi,
    kvm_msr_entry, kvm_regs, kvm_run, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::error::{Error, Result};
use crate::events;
use crate::exit::{Exit, decode};
use crate::exit_status;

/// The local APIC's reset base, enabled, in x2APIC mode (Intel SDM 3A, 11.12.1).
const APIC_BASE_X2APIC: u64 = 1 << 11 | 1 << 10;
const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, default type write-back (Intel SDM 3A, 12.11.2.1).
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;
/// Three pages that KVM on Intel needs where real mode is emulated; below the BIOS's last page.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// What is asked of KVM while the guest runs: `_IO(KVMIO, 0x80)`, which each exit makes, so that it
/// has to be the first; `_IOW(KVMIO, 0xa5, struct kvm_msi)`.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] =
    &[crate::seccomp::rule::Rule::ioctl(0xae80), crate::seccomp::rule::Rule::ioctl(0x4020_aea5)];

/// `_IOW(KVMIO, 0x67, struct kvm_coalesced_mmio_zone)`, and 0x68 to end it.
#[cfg(feature = "coalesced-serial")]
pub(crate) const KVM_REGISTER_COALESCED_MMIO: libc::c_ulong = 0x4010_ae67;
#[cfg(feature = "coalesced-serial")]
pub(crate) const KVM_UNREGISTER_COALESCED_MMIO: libc::c_ulong = 0x4010_ae68;

/// `/dev/kvm`.
pub struct System {
    kvm: Kvm,
}

impl System {
    /// Opens `/dev/kvm` and checks its API.
    ///
    /// # Errors
    /// Says what to do where the device is missing or may not be opened.
    pub fn open() -> Result<System> {
        let kvm = Kvm::new().map_err(|error| {
            Error::failed(match error.errno() {
                libc::ENOENT => "/dev/kvm: not there; load kvm-intel or kvm-amd, or enable \
                                 (nested) virtualisation for this machine"
                    .into(),
                libc::EACCES | libc::EPERM => {
                    "/dev/kvm: permission denied; add your user to the group that owns it \
                     (usually: usermod -aG kvm $USER)"
                        .into()
                }
                _ => format!("/dev/kvm: {error}"),
            })
        })?;
        Ok(System { kvm })
    }

    /// Makes a VM with a split interrupt controller.
    ///
    /// # Errors
    /// The call that failed.
    pub fn create_vm(&self) -> Result<Vm> {
        let fd = loop {
            match self.kvm.create_vm() {
                // To be stopped and continued is no reason to end.
                Err(error) if error.errno() == libc::EINTR => {
                    if events::stopping() {
                        return Err(Error::stopped());
                    }
                }
                other => break other.map_err(Error::kvm("KVM_CREATE_VM"))?,
            }
        };
        // No pin is reserved for the kernel's knowledge of an IOAPIC: all our interrupts are
        // edge-triggered messages, so no EOI has to leave the kernel.
        let split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
        fd.enable_cap(&split).map_err(Error::kvm("KVM_CAP_SPLIT_IRQCHIP"))?;
        exit_status::leave_behind(&fd);
        Ok(Vm { fd })
    }

    /// The CPUID entries that the host's CPU and KVM support.
    ///
    /// # Errors
    /// The call that failed.
    pub fn supported_cpuid(&self) -> Result<CpuId> {
        let mut cpuid = self.kvm.get_supported_cpuid(USUAL_CPUID_ENTRIES);
        if cpuid.as_ref().is_err_and(|error| error.errno() == libc::E2BIG) {
            cpuid = self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        }
        cpuid.map_err(Error::kvm("KVM_GET_SUPPORTED_CPUID"))
    }

    /// The most vCPUs that KVM allows a VM.
    pub fn max_cpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }
}

/// Entries that hosts have, with room for more: 30 to 70 have been seen. As many as KVM allows are 10 KiB that
/// both it and we clear.
const USUAL_CPUID_ENTRIES: usize = 96;

/// A virtual machine.
pub struct Vm {
    fd: VmFd,
}

impl Vm {
    /// Gives the guest `size` bytes at `guest`, which are the host's memory at `host`.
    ///
    /// # Safety
    /// `host..host + size` must stay mapped for as long as the VM can run.
    ///
    /// # Errors
    /// The call that failed.
    pub unsafe fn set_memory(&self, slot: u32, guest: u64, size: u64, host: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.set_region(slot, 0, guest, size, host) }
    }

    /// As [`Self::set_memory`], but the guest's writes are exits. A `size` of 0 takes the memory
    /// away again, so that reads are exits too.
    ///
    /// # Safety
    /// As for [`Self::set_memory`].
    ///
    /// # Errors
    /// The call that failed.
    #[cfg(feature = "mmio")]
    pub unsafe fn set_readable(&self, slot: u32, guest: u64, size: u64, host: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.set_region(slot, kvm_bindings::KVM_MEM_READONLY, guest, size, host) }
    }

    unsafe fn set_region(
        &self,
        slot: u32,
        flags: u32,
        guest: u64,
        size: u64,
        host: u64,
    ) -> Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: guest,
            memory_size: size,
            userspace_addr: host,
        };
        // SAFETY: the caller keeps the range mapped; KVM itself checks size, alignment and overlap.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(Error::kvm("KVM_SET_USER_MEMORY_REGION"))
    }

    /// What KVM on Intel wants before the first vCPU; nothing on AMD.
    ///
    /// # Errors
    /// The call that failed.
    pub fn prepare_intel(&self) -> Result<()> {
        self.fd.set_tss_address(TSS_ADDRESS).map_err(Error::kvm("KVM_SET_TSS_ADDR"))
    }

    /// Makes vCPU `id`, whose APIC id is the same number.
    ///
    /// # Errors
    /// The call that failed.
    pub fn create_vcpu(&self, id: u8) -> Result<Vcpu> {
        let fd = self.fd.create_vcpu(id.into()).map_err(Error::kvm("KVM_CREATE_VCPU"))?;
        Ok(Vcpu { fd, refusals: 0 })
    }

    /// Delivers an interrupt message. From the vCPU's own thread this is one call with no eventfd,
    /// no routing table and no other thread in between. A message that no APIC accepts is lost, as
    /// on hardware.
    pub fn signal_msi(&self, msi: Msi) {
        let message = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data,
            ..Default::default()
        };
        if let Err(error) = self.fd.signal_msi(message) {
            log::debug!("KVM_SIGNAL_MSI {:#x}: {error}", msi.address);
        }
    }

    /// Has KVM keep the guest's writes of a byte to `port` in the ring behind a vCPU's page, or not any
    /// more (api.rst 4.116, KVM_CAP_COALESCED_PIO); false where it cannot.
    #[cfg(feature = "coalesced-serial")]
    pub fn coalesce_port(&self, port: u16, on: bool) -> bool {
        use std::os::fd::AsRawFd;
        let mut zone = kvm_bindings::kvm_coalesced_mmio_zone {
            addr: port.into(),
            size: 1,
            ..Default::default()
        };
        zone.__bindgen_anon_1.pio = 1;
        let request = if on { KVM_REGISTER_COALESCED_MMIO } else { KVM_UNREGISTER_COALESCED_MMIO };
        // SAFETY: reads the one structure that it is given.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), request, &zone) == 0 }
    }

    /// KVM's counters of the VM; `None` where this KVM has none.
    #[cfg(feature = "exit-stats")]
    pub fn counters(&self) -> Option<std::fs::File> {
        counters(&self.fd)
    }
}

/// A virtual CPU.
pub struct Vcpu {
    fd: VcpuFd,
    /// How often in a row KVM has said EAGAIN.
    refusals: u8,
}

/// More than KVM says EAGAIN where all is well: once, to a vCPU that has got its INIT.
const MOST_REFUSALS: u8 = 100;

impl Vcpu {
    /// Sets what the CPU says of itself.
    ///
    /// # Errors
    /// The call that failed.
    pub fn set_cpuid(&self, cpuid: &CpuId) -> Result<()> {
        self.fd.set_cpuid2(cpuid).map_err(Error::kvm("KVM_SET_CPUID2"))
    }

    /// Memory types as firmware leaves them: everything write-back.
    ///
    /// # Errors
    /// The call that failed.
    pub fn set_msrs(&self, intel: bool) -> Result<()> {
        let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let all = [
            entry(MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
            entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        ];
        let wanted = if intel { &all[..] } else { &all[..1] };
        let msrs = Msrs::from_entries(wanted)
            .map_err(|_| Error::failed("KVM_SET_MSRS: list too long".into()))?;
        self.fd.set_msrs(&msrs).map_err(Error::kvm("KVM_SET_MSRS"))?;
        Ok(())
    }

    /// Sets the registers with which the boot protocol enters the kernel. The APIC starts in
    /// x2APIC mode: the guest then never touches its page of registers, each access to which
    /// would be a nested fault and an emulated instruction.
    ///
    /// # Errors
    /// The call that failed.
    pub fn set_entry(&self, entry: &Entry) -> Result<()> {
        self.set_x2apic_and(|sregs| {
            sregs.cr0 = entry.cr0;
            sregs.cr3 = entry.cr3;
            sregs.cr4 = entry.cr4;
            sregs.efer = entry.efer;
            sregs.cs = segment(&entry.code);
            let data = segment(&entry.data);
            (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
            sregs.tr = segment(&entry.tss);
            sregs.gdt.base = entry.gdt.base;
            sregs.gdt.limit = entry.gdt.limit;
            sregs.idt.limit = 0;
        })?;
        let regs = kvm_regs {
            rip: entry.rip,
            rsp: entry.rsp,
            rbx: entry.rbx,
            rsi: entry.rsi,
            rflags: entry.rflags,
            ..Default::default()
        };
        self.fd.set_regs(&regs).map_err(Error::kvm("KVM_SET_REGS"))
    }

    /// For a vCPU that waits for its INIT and SIPI: only the APIC's mode.
    ///
    /// # Errors
    /// The call that failed.
    #[cfg(feature = "smp")]
    pub fn set_waiting(&self) -> Result<()> {
        self.set_x2apic_and(|_| ())
    }

    fn set_x2apic_and(&self, change: impl FnOnce(&mut kvm_bindings::kvm_sregs)) -> Result<()> {
        let mut sregs = self.fd.get_sregs().map_err(Error::kvm("KVM_GET_SREGS"))?;
        sregs.apic_base |= APIC_BASE_X2APIC;
        change(&mut sregs);
        self.fd.set_sregs(&sregs).map_err(Error::kvm("KVM_SET_SREGS"))
    }

    /// Ends what the last exit left half done, a port access for instance, without running the guest:
    /// only then its registers are what they have to be.
    ///
    /// # Errors
    /// `KVM_RUN` failed.
    #[cfg(feature = "snapshot")]
    pub fn complete(&mut self) -> Result<()> {
        self.fd.set_kvm_immediate_exit(1);
        let result = self.fd.run().map(|_| ());
        self.fd.set_kvm_immediate_exit(0);
        match result {
            Err(error) if error.errno() != libc::EINTR => Err(Error::of_kvm("KVM_RUN", error)),
            _ => Ok(()),
        }
    }

    /// Where KVM and this process share the exit; a signal handler may set `immediate_exit`.
    pub fn run_page(&mut self) -> *mut kvm_run {
        self.fd.get_kvm_run()
    }

    /// The address of the next instruction, where the vCPU is not asleep.
    #[cfg(feature = "pmem")]
    pub fn awake_at(&self) -> Option<u64> {
        let state = self.fd.get_mp_state().ok()?;
        if state.mp_state != kvm_bindings::KVM_MP_STATE_RUNNABLE {
            return None;
        }
        self.fd.get_regs().ok().map(|regs| regs.rip)
    }

    /// Tells the guest's clock that the vCPU stood still for a while, so that Linux' watchdogs think nothing
    /// of it (api.rst 4.70). A guest without that clock is told nothing.
    #[cfg(feature = "api")]
    pub fn was_paused(&self) {
        let _ = self.fd.kvmclock_ctrl();
    }

    /// Runs the guest until it needs us.
    ///
    /// # Errors
    /// `KVM_RUN` itself failed, other than by a signal.
    pub fn run(&mut self) -> Result<Exit<'_>> {
        if let Err(error) = self.fd.run().map(|_| ()) {
            return match error.errno() {
                libc::EINTR => Ok(Exit::Interrupted),
                libc::EAGAIN => self.refused(),
                libc::EFAULT => Ok(Exit::MemoryGone),
                _ => Err(Error::of_kvm("KVM_RUN", error)),
            };
        }
        self.refusals = 0;
        Ok(decode(self.fd.get_kvm_run()))
    }

    /// Not in the way of an exit. Linux 6.12 and later make a thread of KVM's own at the first KVM_RUN,
    /// for the user who calls it, and say EAGAIN as long as there is none to be had.
    #[cold]
    fn refused(&mut self) -> Result<Exit<'_>> {
        self.refusals += 1;
        if self.refusals < MOST_REFUSALS {
            return Ok(Exit::Interrupted);
        }
        Err(Error::failed(
            "KVM_RUN: Resource temporarily unavailable; KVM needs a thread of its own: raise the limits on \
             processes (ulimit -u, the cgroup's pids.max)"
                .into(),
        ))
    }

    /// KVM's counters of the vCPU; `None` where this KVM has none.
    #[cfg(feature = "exit-stats")]
    pub fn counters(&self) -> Option<std::fs::File> {
        counters(&self.fd)
    }
}

/// The statistics file (api.rst 4.133) of a VM or vCPU.
#[cfg(feature = "exit-stats")]
fn counters(of: &impl std::os::fd::AsRawFd) -> Option<std::fs::File> {
    use std::os::fd::FromRawFd;
    /// `_IO(KVMIO, 0xce)`.
    const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
    // SAFETY: takes no argument, gives a new descriptor or -1.
    let stats = unsafe { libc::ioctl(of.as_raw_fd(), KVM_GET_STATS_FD, 0) };
    // SAFETY: the descriptor was just made and is ours alone.
    (stats >= 0).then(|| unsafe { std::fs::File::from_raw_fd(stats) })
}

fn segment(from: &Segment) -> kvm_segment {
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: from.kind,
        present: 1,
        dpl: 0,
        s: from.code_or_data.into(),
        db: from.default_32.into(),
        l: from.long.into(),
        g: from.page_granular.into(),
        ..Default::default()
    }
}
