//! A vCPU's state, read and set as KVM has it (Documentation/virt/kvm/api.rst).

use kvm_bindings::{
    CpuId, KVM_CAP_XSAVE2, KVM_MAX_CPUID_ENTRIES, MsrList, Msrs, kvm_clock_data, kvm_cpuid_entry2,
    kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use std::os::fd::AsRawFd;

use super::{System, Vcpu, Vm};
use crate::error::{Error, Result};
use crate::snapshot::parts::{Kind, Parts, Writer};

/// What KVM takes and gives as plain bytes.
///
/// # Safety
/// A `repr(C)` structure of KVM's without padding, of which every bit pattern is one.
unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ty),*) => { $(
        // SAFETY: a structure of Linux's <asm/kvm.h>, whose padding is fields of its own.
        unsafe impl Plain for $name {}
    )* };
}
plain!(
    kvm_cpuid_entry2,
    kvm_mp_state,
    kvm_regs,
    kvm_sregs,
    kvm_xcrs,
    kvm_debugregs,
    kvm_lapic_state,
    kvm_vcpu_events,
    kvm_msr_entry,
    kvm_clock_data,
    u32
);

fn bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: the bytes of plain values, for as long as those are borrowed.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// A list of structures from a part's bytes.
fn list<T: Plain>(parts: &Parts<'_>, kind: Kind, number: usize) -> Result<Vec<T>> {
    let (bytes, size) = (parts.get(kind, number)?, size_of::<T>());
    if !bytes.len().is_multiple_of(size) {
        return Err(parts.wrong(kind, number).into());
    }
    let len = bytes.len() / size;
    let mut list = Vec::<T>::with_capacity(len);
    // SAFETY: room for as many as there are whole ones in `bytes`, and any bytes are a value.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), list.as_mut_ptr().cast::<u8>(), len * size);
        list.set_len(len);
    }
    Ok(list)
}

/// The one structure that a part is.
fn one<T: Plain>(parts: &Parts<'_>, kind: Kind, number: usize) -> Result<T> {
    let mut value = std::mem::MaybeUninit::<T>::uninit();
    fill(parts, kind, number, value.as_mut_ptr().cast(), size_of::<T>())?;
    // SAFETY: all of its bytes were just written, and any bytes are a value.
    Ok(unsafe { value.assume_init() })
}

/// Copies a part, which has to have `size` bytes, to `to`; once for all structures.
#[inline(never)]
fn fill(parts: &Parts<'_>, kind: Kind, number: usize, to: *mut u8, size: usize) -> Result<()> {
    let bytes = parts.get(kind, number)?;
    if bytes.len() != size {
        return Err(parts.wrong(kind, number).into());
    }
    // SAFETY: `one` has room for `size` bytes.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, size) };
    Ok(())
}

/// `_IO(KVMIO, 0x03)`
const KVM_CHECK_EXTENSION: libc::c_ulong = 0xae03;
/// `_IOR(KVMIO, 0xa4, struct kvm_xsave)`, 4096 bytes.
const KVM_GET_XSAVE: libc::c_ulong = 0x9000_aea4;
/// `_IOR(KVMIO, 0xcf, struct kvm_xsave)`, as many bytes as KVM_CAP_XSAVE2 says.
const KVM_GET_XSAVE2: libc::c_ulong = 0x9000_aecf;
/// `_IOW(KVMIO, 0xa5, struct kvm_xsave)`: as many as there are.
const KVM_SET_XSAVE: libc::c_ulong = 0x5000_aea5;
/// What every KVM's XSAVE area has at least.
const XSAVE_LEN: usize = 4096;

/// Bit of a TSS descriptor's type (Intel SDM 3A, 8.2.2).
const TSS_BUSY: u8 = 2;
/// Rates that differ by less than one in so many are the same: what NTP can put right, and KVM's own
/// tolerance (`tsc_tolerance_ppm`, 250).
const TSC_TOLERANCE: u32 = 4000;
const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;
/// INIT came, SIPI has not, or has just come (KVM_MP_STATE_*).
const STARTING: [u32; 2] =
    [kvm_bindings::KVM_MP_STATE_INIT_RECEIVED, kvm_bindings::KVM_MP_STATE_SIPI_RECEIVED];

/// What has to be known of a host to save a vCPU.
pub struct Host {
    /// The model-specific registers that KVM has state in.
    pub msrs: MsrList,
    /// What its CPU and KVM support.
    pub supported: CpuId,
    /// Bytes of a vCPU's XSAVE area.
    pub xsave_len: usize,
    /// What the TSC counts in a millisecond; 0 where KVM does not say.
    pub tsc_khz: u32,
}

impl System {
    /// The model-specific registers that KVM has state in.
    ///
    /// # Errors
    /// The call that failed.
    pub fn msr_list(&self) -> Result<MsrList> {
        self.kvm.get_msr_index_list().map_err(Error::kvm("KVM_GET_MSR_INDEX_LIST"))
    }
}

impl Vm {
    /// Bytes of a vCPU's XSAVE area on this host.
    pub fn xsave_len(&self) -> usize {
        // SAFETY: asks for a number; 0 where KVM does not know the question.
        let len = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                KVM_CHECK_EXTENSION,
                libc::c_ulong::from(KVM_CAP_XSAVE2),
            )
        };
        usize::try_from(len).unwrap_or(0).max(XSAVE_LEN)
    }

    /// Saves the clock that guests with kvmclock see.
    ///
    /// # Errors
    /// The call that failed.
    pub fn save_clock(&self, to: &mut Writer) -> Result<()> {
        let clock = self.fd.get_clock().map_err(Error::kvm("KVM_GET_CLOCK"))?;
        to.add(Kind::Clock, 0, bytes(&[clock]));
        Ok(())
    }

    /// Lets the clock go on: by the real time that has passed since, where KVM then knew it.
    ///
    /// # Errors
    /// The call that failed, or the part is wrong.
    pub fn restore_clock(&self, from: &Parts<'_>) -> Result<()> {
        let mut clock: kvm_clock_data = one(from, Kind::Clock, 0)?;
        // The others say what the host was like.
        clock.flags &= kvm_bindings::KVM_CLOCK_REALTIME;
        self.fd.set_clock(&clock).map_err(Error::kvm("KVM_SET_CLOCK"))
    }
}

impl Vcpu {
    /// Maps memory for the guest as its reading would (api.rst 4.143, Linux 6.10); false where KVM cannot.
    pub fn pre_fault(&self, address: u64, len: u64) -> bool {
        /// `_IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)`: address, size, flags, padding.
        const KVM_PRE_FAULT_MEMORY: libc::c_ulong = 0xc040_aed5;
        let mut range = [address, len, 0, 0, 0, 0, 0, 0];
        // SAFETY: reads and writes the 64 bytes that it is given.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_PRE_FAULT_MEMORY, range.as_mut_ptr()) == 0 }
    }

    /// Saves all of vCPU `number`, which is out of the guest with nothing left to be done for its last
    /// exit.
    ///
    /// # Errors
    /// The call that failed, or the vCPU is between its INIT and its first instruction.
    pub fn save(&self, number: usize, host: &Host, to: &mut Writer) -> Result<()> {
        let fd = &self.fd;
        // First: it makes KVM take the INIT or SIPI that waits.
        let state = fd.get_mp_state().map_err(Error::kvm("KVM_GET_MP_STATE"))?;
        if STARTING.contains(&state.mp_state) {
            return Err(Error::Failed(format!(
                "snapshot: vCPU {number} is just being started; try again"
            )));
        }
        to.add(Kind::MpState, number, bytes(&[state]));
        let cpuid = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("KVM_GET_CPUID2"))?;
        to.add(Kind::Cpuid, number, bytes(cpuid.as_slice()));
        to.add(Kind::Supported, number, bytes(host.supported.as_slice()));
        to.add(Kind::TscRate, number, &host.tsc_khz.to_le_bytes());
        let regs = fd.get_regs().map_err(Error::kvm("KVM_GET_REGS"))?;
        to.add(Kind::Regs, number, bytes(&[regs]));
        let sregs = fd.get_sregs().map_err(Error::kvm("KVM_GET_SREGS"))?;
        to.add(Kind::Sregs, number, bytes(&[sregs]));
        to.add(Kind::Xsave, number, &self.xsave(host.xsave_len)?);
        let xcrs = fd.get_xcrs().map_err(Error::kvm("KVM_GET_XCRS"))?;
        to.add(Kind::Xcrs, number, bytes(&[xcrs]));
        let debug = fd.get_debug_regs().map_err(Error::kvm("KVM_GET_DEBUGREGS"))?;
        to.add(Kind::DebugRegs, number, bytes(&[debug]));
        let lapic = fd.get_lapic().map_err(Error::kvm("KVM_GET_LAPIC"))?;
        to.add(Kind::Lapic, number, bytes(&[lapic]));
        to.add(Kind::Msrs, number, bytes(&self.msrs(&host.msrs)?));
        let events = fd.get_vcpu_events().map_err(Error::kvm("KVM_GET_VCPU_EVENTS"))?;
        to.add(Kind::Events, number, bytes(&[events]));
        Ok(())
    }

    /// Makes this new vCPU what vCPU `number` was, on a host whose CPU has what `supported` says.
    ///
    /// # Errors
    /// The call that failed, a part is wrong, or the CPU is another.
    pub fn restore(
        &self,
        number: usize,
        xsave_len: usize,
        supported: &CpuId,
        from: &Parts<'_>,
    ) -> Result<()> {
        let fd = &self.fd;
        let shown = list::<kvm_cpuid_entry2>(from, Kind::Cpuid, number)?;
        let then = list(from, Kind::Supported, number)?;
        if let Some(lack) = crate::cpuid::lacks(&shown, &then, supported.as_slice()) {
            return Err(Error::Failed(format!(
                "--restore: this host has {lack}, which the guest was shown; restore on a host like the \
                 one that the snapshot is from"
            )));
        }
        let cpuid = CpuId::from_entries(&shown)
            .map_err(|_| crate::snapshot::Wrong::Part(Kind::Cpuid, number as u32))?;
        self.set_cpuid(&cpuid)?;
        self.set_tsc_rate(one(from, Kind::TscRate, number)?)?;
        let state = one(from, Kind::MpState, number)?;
        fd.set_mp_state(state).map_err(Error::kvm("KVM_SET_MP_STATE"))?;
        fd.set_regs(&one(from, Kind::Regs, number)?).map_err(Error::kvm("KVM_SET_REGS"))?;
        let mut sregs: kvm_sregs = one(from, Kind::Sregs, number)?;
        // KVM says "busy", which Intel's CPUs have and want. AMD's have "available", whatever is in the
        // guest's descriptor, and a software CPU of QEMU's that emulates one looks for that.
        if crate::cpuid::is_amd(&cpuid) {
            sregs.tr.type_ &= !TSS_BUSY;
        }
        fd.set_sregs(&sregs).map_err(Error::kvm("KVM_SET_SREGS"))?;
        // Before the XSAVE area, of which it says what there is.
        fd.set_xcrs(&one(from, Kind::Xcrs, number)?).map_err(Error::kvm("KVM_SET_XCRS"))?;
        self.set_xsave(from.get(Kind::Xsave, number)?, xsave_len)?;
        let debug = one(from, Kind::DebugRegs, number)?;
        fd.set_debug_regs(&debug).map_err(Error::kvm("KVM_SET_DEBUGREGS"))?;
        fd.set_lapic(&one(from, Kind::Lapic, number)?).map_err(Error::kvm("KVM_SET_LAPIC"))?;
        self.set_saved_msrs(list(from, Kind::Msrs, number)?)?;
        let events = one(from, Kind::Events, number)?;
        fd.set_vcpu_events(&events).map_err(Error::kvm("KVM_SET_VCPU_EVENTS"))?;
        // Lets the guest's watchdogs know that it stood still; a guest without kvmclock has none to tell.
        let _ = fd.kvmclock_ctrl();
        Ok(())
    }

    /// What the TSC counts in a millisecond; 0 where KVM does not say.
    pub fn tsc_khz(&self) -> u32 {
        self.fd.get_tsc_khz().unwrap_or(0)
    }

    /// Has the TSC count at `khz`, where it does not.
    fn set_tsc_rate(&self, khz: u32) -> Result<()> {
        let here = self.tsc_khz();
        if here == 0 || khz == 0 || here.abs_diff(khz) <= here / TSC_TOLERANCE {
            return Ok(());
        }
        self.fd.set_tsc_khz(khz).map_err(|_| {
            Error::Failed(format!(
                "--restore: the guest's TSC counts {khz} kHz, this host's {here}, and its KVM cannot \
                 scale it; restore on a host like the one that the snapshot is from"
            ))
        })
    }

    /// The XSAVE area, `len` bytes as [`Vm::xsave_len`] says.
    fn xsave(&self, len: usize) -> Result<Vec<u8>> {
        let call = if len > XSAVE_LEN { KVM_GET_XSAVE2 } else { KVM_GET_XSAVE };
        let mut area = vec![0; len];
        // SAFETY: KVM fills as many bytes as it said.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), call, area.as_mut_ptr()) } {
            0 => Ok(area),
            _ => Err(Error::last_kvm("KVM_GET_XSAVE")),
        }
    }

    /// `len` is this host's; the area may come from one with more or less state.
    fn set_xsave(&self, area: &[u8], len: usize) -> Result<()> {
        let mut own = area.to_vec();
        own.resize(len.max(area.len()), 0);
        // SAFETY: KVM reads `len` bytes.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_SET_XSAVE, own.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Error::last_kvm("KVM_SET_XSAVE")),
        }
    }

    /// All of `wanted` that can be read, the TSC first and its deadline, which is set by it, last.
    fn msrs(&self, wanted: &MsrList) -> Result<Vec<kvm_msr_entry>> {
        let mut left: Vec<kvm_msr_entry> = wanted
            .as_slice()
            .iter()
            .map(|&index| kvm_msr_entry { index, ..Default::default() })
            .collect();
        let mut read = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let mut some = msr_list(&left)?;
            let count = self.fd.get_msrs(&mut some).map_err(Error::kvm("KVM_GET_MSRS"))?;
            read.extend_from_slice(&some.as_slice()[..count.min(left.len())]);
            // KVM stops at one that the host has and this guest has not.
            left.drain(..(count + 1).min(left.len()));
        }
        let tsc = read.iter().find(|msr| msr.index == MSR_IA32_TSC).map_or(0, |msr| msr.data);
        for msr in &mut read {
            // A timer that fired, and whose interrupt did not come yet, is no state that KVM gives:
            // let it fire once more.
            if msr.index == MSR_IA32_TSC_DEADLINE && msr.data == 0 {
                msr.data = tsc;
            }
        }
        let with = |wanted: fn(u32) -> bool| read.iter().filter(move |msr| wanted(msr.index));
        let first = with(|index| index == MSR_IA32_TSC);
        let others = with(|index| ![MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE].contains(&index));
        let last = with(|index| index == MSR_IA32_TSC_DEADLINE);
        Ok(first.chain(others).chain(last).copied().collect())
    }

    fn set_saved_msrs(&self, mut left: Vec<kvm_msr_entry>) -> Result<()> {
        while !left.is_empty() {
            let count = self.fd.set_msrs(&msr_list(&left)?).map_err(Error::kvm("KVM_SET_MSRS"))?;
            let Some(refused) = left.get(count) else { return Ok(()) };
            // One that cannot be written at all, and has the value anyway.
            let mut now =
                msr_list(&[kvm_msr_entry { index: refused.index, ..Default::default() }])?;
            let read = self.fd.get_msrs(&mut now).map_err(Error::kvm("KVM_GET_MSRS"))?;
            if read != 1 || now.as_slice()[0].data != refused.data {
                return Err(Error::Failed(format!(
                    "--restore: this host's KVM refuses {:#x} for model-specific register {:#x}; \
                     restore on a host like the one that the snapshot is from",
                    refused.data, refused.index
                )));
            }
            left.drain(..=count);
        }
        Ok(())
    }
}

fn msr_list(entries: &[kvm_msr_entry]) -> Result<Msrs> {
    Msrs::from_entries(entries).map_err(|_| Error::Failed("KVM_GET_MSRS: list too long".into()))
}
