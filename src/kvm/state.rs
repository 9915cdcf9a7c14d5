//! A vCPU's state, read and set as KVM has it (Documentation/virt/kvm/api.rst).

use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    CpuId, KVM_CAP_XSAVE2, KVM_MAX_CPUID_ENTRIES, MsrList, kvm_clock_data, kvm_cpuid_entry2,
    kvm_segment, kvm_sregs,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::{System, Vcpu, Vm};
use crate::error::{Error, Result};
use crate::measure::clock;
use crate::snapshot::parts::{Kind, Parts, Writer};

/// A structure of KVM's that is a part as it is: plain bytes, of a length that its calls' numbers have.
struct Plain {
    kind: Kind,
    get: Call,
    set: Call,
}

type Call = (libc::c_ulong, &'static str);

const CLOCK: Plain = Plain {
    kind: Kind::Clock,
    get: (0x8030_ae7c, "KVM_GET_CLOCK"),
    set: (0x4030_ae7b, "KVM_SET_CLOCK"),
};

/// A vCPU's, in the order in which they are read and set. First what makes KVM take the INIT or SIPI that
/// waits; XCRs before the XSAVE area, of which they say what there is; events last.
const VCPU: [Plain; 7] = [
    Plain {
        kind: Kind::MpState,
        get: (0x8004_ae98, "KVM_GET_MP_STATE"),
        set: (0x4004_ae99, "KVM_SET_MP_STATE"),
    },
    Plain {
        kind: Kind::Regs,
        get: (0x8090_ae81, "KVM_GET_REGS"),
        set: (0x4090_ae82, "KVM_SET_REGS"),
    },
    Plain {
        kind: Kind::Sregs,
        get: (0x8138_ae83, "KVM_GET_SREGS"),
        set: (0x4138_ae84, "KVM_SET_SREGS"),
    },
    Plain {
        kind: Kind::Xcrs,
        get: (0x8188_aea6, "KVM_GET_XCRS"),
        set: (0x4188_aea7, "KVM_SET_XCRS"),
    },
    Plain {
        kind: Kind::DebugRegs,
        get: (0x8080_aea1, "KVM_GET_DEBUGREGS"),
        set: (0x4080_aea2, "KVM_SET_DEBUGREGS"),
    },
    Plain {
        kind: Kind::Lapic,
        get: (0x8400_ae8e, "KVM_GET_LAPIC"),
        set: (0x4400_ae8f, "KVM_SET_LAPIC"),
    },
    Plain {
        kind: Kind::Events,
        get: (0x8040_ae9f, "KVM_GET_VCPU_EVENTS"),
        set: (0x4040_aea0, "KVM_SET_VCPU_EVENTS"),
    },
];

/// As long as the longest of them, that of the local APIC.
type Bytes = [u64; 128];

/// How long the structure is that a call reads or writes (`_IOC_SIZE`).
const fn size(call: Call) -> usize {
    (call.0 >> 16) as usize & 0x3fff
}

/// Has KVM fill `bytes`.
fn get<'a>(fd: &impl AsRawFd, call: Call, bytes: &'a mut Bytes) -> Result<&'a mut [u8]> {
    let bytes = &mut bytes.as_mut_bytes()[..size(call)];
    // SAFETY: KVM writes as many bytes as the call's number says, which are there.
    match unsafe { libc::ioctl(fd.as_raw_fd(), call.0, bytes.as_mut_ptr()) } {
        0 => Ok(bytes),
        _ => Err(Error::last_kvm(call.1)),
    }
}

/// Gives KVM `bytes`, which [`part`] took from a snapshot for this.
fn set(fd: &impl AsRawFd, call: Call, bytes: &Bytes) -> Result<()> {
    const { assert!(size(VCPU[5].set) == size_of::<Bytes>()) };
    // SAFETY: KVM reads as many bytes as the call's number says, which are there.
    match unsafe { libc::ioctl(fd.as_raw_fd(), call.0, bytes.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_kvm(call.1)),
    }
}

/// What a call that sets it wants, and no other length.
fn part(from: &Parts<'_>, plain: &Plain, number: usize) -> Result<Bytes> {
    let mut bytes: Bytes = [0; 128];
    let part = from.get(plain.kind, number)?;
    if part.len() != size(plain.set) {
        return Err(from.wrong(plain.kind, number).into());
    }
    bytes.as_mut_bytes()[..part.len()].copy_from_slice(part);
    Ok(bytes)
}

/// A list of CPUID leaves from a part's bytes, which the file and the allocator have at a multiple of eight.
fn leaves<'a>(parts: &Parts<'a>, kind: Kind, number: usize) -> Result<&'a [kvm_cpuid_entry2]> {
    // SAFETY: numbers, whatever the bytes are.
    match unsafe { parts.get(kind, number)?.align_to() } {
        ([], leaves, []) => Ok(leaves),
        _ => Err(parts.wrong(kind, number).into()),
    }
}

fn bytes_of(leaves: &[kvm_cpuid_entry2]) -> &[u8] {
    // SAFETY: numbers without padding between, for as long as they are borrowed.
    unsafe { std::slice::from_raw_parts(leaves.as_ptr().cast(), size_of_val(leaves)) }
}

/// `_IO(KVMIO, 0x03)`
const KVM_CHECK_EXTENSION: libc::c_ulong = 0xae03;
/// `_IOR(KVMIO, 0xa4, struct kvm_xsave)`, 4096 bytes.
const KVM_GET_XSAVE: libc::c_ulong = 0x9000_aea4;
/// `_IOR(KVMIO, 0xcf, struct kvm_xsave)`, as many bytes as KVM_CAP_XSAVE2 says.
const KVM_GET_XSAVE2: libc::c_ulong = 0x9000_aecf;
/// `_IOW(KVMIO, 0xa5, struct kvm_xsave)`: as many as there are.
const KVM_SET_XSAVE: libc::c_ulong = 0x5000_aea5;
/// `_IOWR(KVMIO, 0x88, struct kvm_msrs)` and `_IOW(KVMIO, 0x89, struct kvm_msrs)`, without the entries.
const KVM_GET_MSRS: libc::c_ulong = 0xc008_ae88;
const KVM_SET_MSRS: libc::c_ulong = 0x4008_ae89;
/// Bytes of an entry of the two.
const MSR: usize = 16;
/// The most that are set by one call; a host has some hundred.
const MSRS_AT_ONCE: usize = 128;
/// What every KVM's XSAVE area has at least.
const XSAVE_LEN: usize = 4096;

/// Bit of a TSS descriptor's type (Intel SDM 3A, 8.2.2).
const TSS_BUSY: u8 = 2;
/// Rates that differ by less than one in so many are the same: what NTP can put right, and KVM's own
/// tolerance (`tsc_tolerance_ppm`, 250).
const TSC_TOLERANCE: u32 = 4000;
const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;
const MSR_IA32_DEBUGCTL: u32 = 0x1d9;
/// Hyper-V's (KVM's arch/x86/include/asm/hyperv-tlfs.h).
const HYPERV: Range<u32> = 0x4000_0000..0x4000_0200;
/// INIT came, SIPI has not, or has just come (KVM_MP_STATE_*).
const STARTING: [u32; 2] =
    [kvm_bindings::KVM_MP_STATE_INIT_RECEIVED, kvm_bindings::KVM_MP_STATE_SIPI_RECEIVED];

/// Whether it is zero in a new vCPU, and had better not be written to for nothing: Hyper-V's make KVM keep
/// what such a guest needs, and for DEBUGCTL it writes a line into the host's log on a CPU of AMD's.
fn starts_as_zero(index: u32) -> bool {
    index == MSR_IA32_DEBUGCTL || HYPERV.contains(&index)
}

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
        to.add(CLOCK.kind, 0, get(&self.fd, CLOCK.get, &mut [0; 128])?);
        Ok(())
    }

    /// Lets the clock go on: by the real time that has passed since, where KVM then knew it.
    ///
    /// # Errors
    /// The call that failed, or the part is wrong.
    pub fn restore_clock(&self, from: &Parts<'_>) -> Result<()> {
        let mut clock = part(from, &CLOCK, 0)?;
        // The others say what the host was like.
        clock[CLOCK_FLAGS] &= u64::from(kvm_bindings::KVM_CLOCK_REALTIME);
        set(&self.fd, CLOCK.set, &clock)
    }
}

/// Words of a `kvm_clock_data`.
const CLOCK_FLAGS: usize = offset_of!(kvm_clock_data, flags) / 8;
const CLOCK_REALTIME: usize = offset_of!(kvm_clock_data, realtime) / 8;

/// What a TSC that counts at `khz` would have counted in the time by which [`Vm::restore_clock`] lets the
/// other clock go on. A guest that takes the time from one of them looks at the other to see whether it is
/// right (Documentation/virt/kvm/devices/vcpu.rst, 4.1).
///
/// # Errors
/// The part is wrong.
fn ticks_since(from: &Parts<'_>, khz: u32) -> Result<u64> {
    let saved = part(from, &CLOCK, 0)?;
    if saved[CLOCK_FLAGS] & u64::from(kvm_bindings::KVM_CLOCK_REALTIME) == 0 {
        return Ok(0);
    }
    let passed = clock::real().saturating_sub(saved[CLOCK_REALTIME]);
    // Whole milliseconds, and the rest: together they would not fit.
    let (whole, rest) = (passed / 1_000_000, passed % 1_000_000);
    Ok(whole.wrapping_mul(khz.into()).wrapping_add(rest * u64::from(khz) / 1_000_000))
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
        for plain in &VCPU {
            let mut bytes: Bytes = [0; 128];
            let bytes = get(&self.fd, plain.get, &mut bytes)?;
            if plain.kind == Kind::MpState && STARTING.contains(&u32::from(bytes[0])) {
                return Err(Error::failed(format!(
                    "snapshot: vCPU {number} is just being started; try again"
                )));
            }
            to.add(plain.kind, number, bytes);
        }
        let cpuid = self.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES);
        let cpuid = cpuid.map_err(Error::kvm("KVM_GET_CPUID2"))?;
        to.add(Kind::Cpuid, number, bytes_of(cpuid.as_slice()));
        to.add(Kind::Supported, number, bytes_of(host.supported.as_slice()));
        to.add(Kind::TscRate, number, &host.tsc_khz.to_le_bytes());
        to.add(Kind::Xsave, number, &self.xsave(host.xsave_len)?);
        to.add(Kind::Msrs, number, self.msrs(&host.msrs).as_bytes());
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
        let shown = leaves(from, Kind::Cpuid, number)?;
        let then = leaves(from, Kind::Supported, number)?;
        if let Some(lack) = crate::cpuid::lacks(shown, then, supported.as_slice()) {
            return Err(Error::failed(format!(
                "--restore: this host has {lack}, which the guest was shown; restore on a host like the \
                 one that the snapshot is from"
            )));
        }
        let cpuid = CpuId::from_entries(shown)
            .map_err(|_| crate::snapshot::Wrong::Part(Kind::Cpuid, number as u32))?;
        self.set_cpuid(&cpuid)?;
        let khz = from.read::<U32>(Kind::TscRate, number)?.get();
        self.set_tsc_rate(khz)?;
        let ticks = ticks_since(from, khz)?;
        for plain in &VCPU {
            let mut bytes = part(from, plain, number)?;
            match plain.kind {
                // KVM says "busy", which Intel's CPUs have and want. AMD's have "available", whatever is
                // in the guest's descriptor, and a software CPU of QEMU's that emulates one looks for
                // that.
                Kind::Sregs if crate::cpuid::is_amd(&cpuid) => {
                    const TYPE: usize = offset_of!(kvm_sregs, tr) + offset_of!(kvm_segment, type_);
                    bytes.as_mut_bytes()[TYPE] &= !TSS_BUSY;
                }
                Kind::DebugRegs => self.set_xsave(from.get(Kind::Xsave, number)?, xsave_len)?,
                // The APIC has to be there for its timer's deadline.
                Kind::Events => self.set_msrs_of(from.get(Kind::Msrs, number)?, ticks)?,
                _ => {}
            }
            set(&self.fd, plain.set, &bytes)?;
        }
        // Lets the guest's watchdogs know that it stood still; a guest without kvmclock has none to tell.
        let _ = self.fd.kvmclock_ctrl();
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
            Error::failed(format!(
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
        let mut own = Vec::new();
        let mut all = area;
        if area.len() < len {
            own.extend_from_slice(area);
            own.resize(len, 0);
            all = &own;
        }
        // SAFETY: KVM reads `len` bytes.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_SET_XSAVE, all.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Error::last_kvm("KVM_SET_XSAVE")),
        }
    }

    /// All of `wanted` that can be read, the TSC first and its deadline, which is set by it, last: each
    /// with its number.
    fn msrs(&self, wanted: &MsrList) -> Vec<[u64; 2]> {
        let turn = |index| match index {
            MSR_IA32_TSC => 0,
            MSR_IA32_TSC_DEADLINE => 2,
            _ => 1,
        };
        let mut read: Vec<[u64; 2]> = Vec::new();
        for now in 0..3 {
            for &index in wanted.as_slice().iter().filter(|&&index| turn(index) == now) {
                // One that the host has and this guest has not is left out.
                let Some(mut value) = self.msr(index) else { continue };
                if value == 0 && starts_as_zero(index) {
                    continue;
                }
                // A timer that fired, and whose interrupt did not come yet, is no state that KVM gives:
                // let it fire once more.
                if (index, value) == (MSR_IA32_TSC_DEADLINE, 0) {
                    value = read.first().map_or(0, |tsc| tsc[1]);
                }
                read.push([index.into(), value]);
            }
        }
        read
    }

    /// The value of one.
    fn msr(&self, index: u32) -> Option<u64> {
        // struct kvm_msrs of one struct kvm_msr_entry.
        let mut list = [1, index.into(), 0];
        // SAFETY: KVM reads and writes as many entries as the list says, one.
        let count = unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_GET_MSRS, list.as_mut_ptr()) };
        (count == 1).then_some(list[2])
    }

    /// Sets those that [`Self::msrs`] has read, in their order, the TSC and its deadline `ticks` later.
    fn set_msrs_of(&self, part: &[u8], ticks: u64) -> Result<()> {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        // struct kvm_msrs of as many entries as there are whole ones, each two words. On the stack,
        // whose pages are there.
        let mut list = [0; 1 + 2 * MSRS_AT_ONCE];
        let mut left = part;
        while left.len() >= MSR {
            let msrs = left.chunks_exact(MSR).take(MSRS_AT_ONCE);
            let count = msrs.len() as u64;
            list[0] = count;
            for (entry, msr) in list[1..].chunks_exact_mut(2).zip(msrs) {
                (entry[0], entry[1]) = (word(&msr[..8]), word(&msr[8..]));
                // The timer is as far away as it was: what a clone is for comes before it.
                if matches!(entry[0] as u32, MSR_IA32_TSC | MSR_IA32_TSC_DEADLINE) {
                    entry[1] = entry[1].wrapping_add(ticks);
                }
            }
            // SAFETY: KVM reads as many entries as the list says, which are there.
            let set = unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_SET_MSRS, list.as_ptr()) };
            let mut set = usize::try_from(set).map_err(|_| Error::last_kvm("KVM_SET_MSRS"))?;
            if set < count as usize {
                // One that cannot be written at all, and has the value anyway.
                let (index, value) = (list[2 * set + 1] as u32, list[2 * set + 2]);
                if self.msr(index) != Some(value) {
                    return Err(Error::failed(format!(
                        "--restore: this host's KVM refuses {value:#x} for model-specific register \
                         {index:#x}; restore on a host like the one that the snapshot is from"
                    )));
                }
                set += 1;
            }
            left = left.get(set * MSR..).unwrap_or_default();
        }
        Ok(())
    }
}
