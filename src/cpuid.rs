//! What each vCPU says of itself: the host's supported set, with the parts that depend on the guest
//! put right.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use crate::error::{Error, Result};

/// Leaf 1 ecx (Intel SDM 2A, CPUID).
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 edx: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Level types of leaf 0xb, ecx bits 8 to 15.
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
/// `ecx` of an entry counts.
const SIGNIFICANT_INDEX: u32 = kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

/// Whether the host's CPU is Intel's: leaf 0 spells "GenuineIntel".
pub fn is_intel(cpuid: &CpuId) -> bool {
    let intel = |entry: &kvm_cpuid_entry2| entry.function == 0 && entry.ebx == 0x756e_6547;
    cpuid.as_slice().iter().any(intel)
}

/// Puts `cpuid`, as KVM_GET_SUPPORTED_CPUID gave it, right for vCPU `id` of `count`: APIC ids equal
/// to the vCPU's number, one package of single-threaded cores.
///
/// # Errors
/// The list has no room for the two entries of leaf 0xb.
pub fn for_vcpu(cpuid: &mut CpuId, id: u8, count: u8) -> Result<()> {
    let (id, count) = (u32::from(id), u32::from(count));
    // Bits of an APIC id that tell cores apart.
    let width = u32::BITS - (count - 1).leading_zeros();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            0x1 => {
                entry.ebx = entry.ebx & 0xffff | id << 24 | count << 16;
                entry.ecx |= X2APIC | TSC_DEADLINE | HYPERVISOR;
                entry.edx = entry.edx & !HTT | if count > 1 { HTT } else { 0 };
            }
            // Deterministic caches: threads that share one, cores in the package.
            0x4 if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { (1 << width) - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14 | (((1 << width) - 1) & 0x3f) << 26;
            }
            // AMD: core count and the width of an id (APM 3, appendix E).
            0x8000_0008 => entry.ecx = width << 12 | (count - 1),
            // AMD: who shares each cache.
            0x8000_001d if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { count - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14;
            }
            // AMD: extended APIC id; core id with one thread each; one node.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
    }
    // Extended topology, ours alone whatever the host's looks like.
    cpuid.retain(|entry| entry.function != 0xb && entry.function != 0x1f);
    let level = |index, eax, ebx, kind| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: SIGNIFICANT_INDEX,
        eax,
        ebx,
        ecx: index | kind,
        edx: id,
        ..Default::default()
    };
    for entry in [level(0, 0, 1, LEVEL_SMT), level(1, width, count, LEVEL_CORE)] {
        cpuid.push(entry).map_err(|_| Error::Failed("KVM_SET_CPUID2: too many entries".into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax: 0x21, ebx: 0xffff_ffff, ..Default::default() }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid.as_slice().iter().find(|e| e.function == function && e.index == index).unwrap()
    }

    #[test]
    fn ids_and_counts_are_the_guests() {
        let leaves = [entry(0), entry(1), entry(0xb), entry(0x8000_0008), entry(0x8000_001e)];
        let mut cpuid = CpuId::from_entries(&leaves).unwrap();
        for_vcpu(&mut cpuid, 2, 3).unwrap();
        let one = find(&cpuid, 1, 0);
        assert_eq!(one.ebx >> 16, 0x0203);
        assert_eq!(one.ecx & (X2APIC | TSC_DEADLINE), X2APIC | TSC_DEADLINE);
        assert_eq!(one.edx & HTT, HTT);
        assert_eq!(find(&cpuid, 0xb, 1).ebx, 3);
        assert_eq!(find(&cpuid, 0xb, 1).eax, 2);
        assert_eq!(find(&cpuid, 0xb, 0).edx, 2);
        assert_eq!(find(&cpuid, 0x8000_0008, 0).ecx, 2 << 12 | 2);
        assert_eq!(find(&cpuid, 0x8000_001e, 0).eax, 2);
    }

    #[test]
    fn one_cpu_is_no_smp() {
        let mut cpuid = CpuId::from_entries(&[entry(1)]).unwrap();
        for_vcpu(&mut cpuid, 0, 1).unwrap();
        assert_eq!(find(&cpuid, 1, 0).edx & HTT, 0);
        assert_eq!(find(&cpuid, 0xb, 1).eax, 0);
    }
}
