//! What each vCPU says of itself: the host's supported set, with the parts that depend on the guest
//! put right, and without what a guest asks for in vain. Each CPUID is an exit.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use crate::error::{Error, Result};

/// Leaf 1 ecx (Intel SDM 2A, CPUID).
const VMX: u32 = 1 << 5;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 0x8000_0001 ecx (APM 3, appendix E).
const SVM: u32 = 1 << 2;
/// Leaf 1 edx: machine checks and their banks of registers.
const MCE: u32 = 1 << 7;
const MCA: u32 = 1 << 14;
/// Leaf 1 edx: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 7 edx: there is IA32_ARCH_CAPABILITIES.
const ARCH_CAPABILITIES: u32 = 1 << 29;
/// Level types of leaf 0xb, ecx bits 8 to 15.
const LEVEL_NONE: u32 = 0;
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
/// `ecx` of an entry counts.
const SIGNIFICANT_INDEX: u32 = kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

/// Whether the host's CPU is Intel's: leaf 0 spells "GenuineIntel".
pub fn is_intel(cpuid: &CpuId) -> bool {
    is_from(cpuid, *b"Genu")
}

/// Whether the host's CPU is AMD's: leaf 0 spells "AuthenticAMD".
#[cfg(feature = "snapshot")]
pub fn is_amd(cpuid: &CpuId) -> bool {
    is_from(cpuid, *b"Auth")
}

/// Whether the vendor's name in leaf 0 starts with `name`.
fn is_from(cpuid: &CpuId, name: [u8; 4]) -> bool {
    cpuid.as_slice().iter().any(|entry| entry.function == 0 && entry.ebx.to_le_bytes() == name)
}

/// Leaves with registers that are sets of features: leaf, index, and which of eax, ebx, ecx and edx.
#[cfg(feature = "snapshot")]
const FEATURES: [(u32, u32, [bool; 4]); 8] = [
    (0x1, 0, [false, false, true, true]),
    (0x7, 0, [false, true, true, true]),
    (0x7, 1, [true; 4]),
    (0xd, 0, [true, false, false, true]),
    (0xd, 1, [true, false, true, true]),
    (0x8000_0001, 0, [false, false, true, true]),
    (0x8000_0008, 0, [false, true, false, false]),
    // KVM's own (Documentation/virt/kvm/x86/cpuid.rst).
    (0x4000_0001, 0, [true, false, false, false]),
];

/// What a guest was `shown` of what its host supported `then`, and this one does not `now`, for a person;
/// `None` where that is nothing. What KVM shows by itself is not looked at.
#[cfg(feature = "snapshot")]
pub fn lacks(
    shown: &[kvm_cpuid_entry2],
    then: &[kvm_cpuid_entry2],
    now: &[kvm_cpuid_entry2],
) -> Option<String> {
    let find = |all: &[kvm_cpuid_entry2], leaf, index| {
        let is_it = |entry: &&kvm_cpuid_entry2| {
            entry.function == leaf && (entry.flags & SIGNIFICANT_INDEX == 0 || entry.index == index)
        };
        let found = all.iter().find(is_it);
        found.map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    };
    if find(then, 0, 0)[1..] != find(now, 0, 0)[1..] {
        return Some("another vendor's CPU".into());
    }
    FEATURES.iter().find_map(|(leaf, index, are_sets)| {
        let [shown, then, now] = [shown, then, now].map(|all| find(all, *leaf, *index));
        let missing = |at: usize| shown[at] & then[at] & !now[at];
        let at = (0..4).find(|at| are_sets[*at] && missing(*at) != 0)?;
        let (register, bit) = (["eax", "ebx", "ecx", "edx"][at], missing(at).trailing_zeros());
        Some(format!("a CPU without CPUID leaf {leaf:#x}.{index} {register} bit {bit}"))
    })
}

/// Puts `cpuid`, as KVM_GET_SUPPORTED_CPUID gave it, right for vCPU `id` of `count`: APIC ids equal
/// to the vCPU's number, one package of single-threaded cores; without virtualisation of its own unless
/// it is `nested`, of which KVM's part is code that a guest that needs none had better not reach.
///
/// # Errors
/// The list has no room for the two entries of leaf 0xb.
pub fn for_vcpu(cpuid: &mut CpuId, id: u8, count: u8, nested: bool) -> Result<()> {
    let (id, count) = (u32::from(id), u32::from(count));
    // Bits of an APIC id that tell cores apart.
    let width = u32::BITS - (count - 1).leading_zeros();
    let amd = is_from(cpuid, *b"Auth");
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            0x1 => {
                entry.ebx = entry.ebx & 0xffff | id << 24 | count << 16;
                entry.ecx |= X2APIC | TSC_DEADLINE | HYPERVISOR;
                if !nested {
                    entry.ecx &= !VMX;
                }
                entry.edx = entry.edx & !HTT | if count > 1 { HTT } else { 0 };
                // No machine check ever comes. Where there are banks, Linux with CONFIG_X86_MCE sets
                // up KVM's 32, at six exits each. The price is a line in its log, "mce: Unable to init
                // MCE device", which comes exactly where both bits are not there (`mce_available`), and
                // with both the first thing is to ask how many banks there are: an exit more at least.
                entry.edx &= !(MCE | MCA);
            }
            // Deterministic caches: threads that share one, cores in the package.
            0x4 if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { (1 << width) - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14 | (((1 << width) - 1) & 0x3f) << 26;
            }
            // No CPU of AMD's has this register. KVM makes one up, and Linux reads it for each of five
            // weaknesses that it then finds AMD's CPUs not to have.
            0x7 if amd && entry.index == 0 => entry.edx &= !ARCH_CAPABILITIES,
            // AMD: the same bits once more (APM 3, appendix E).
            0x8000_0001 => {
                entry.edx &= !(MCE | MCA);
                if !nested {
                    entry.ecx &= !SVM;
                }
            }
            // AMD: what SVM has.
            0x8000_000a if !nested => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
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
    // A guest asks on until it gets to a level of no type. With one CPU the first level has all.
    let above = match count {
        1 => level(1, 0, 0, LEVEL_NONE),
        _ => level(1, width, count, LEVEL_CORE),
    };
    for entry in [level(0, 0, 1, LEVEL_SMT), above] {
        cpuid.push(entry).map_err(|_| Error::failed("KVM_SET_CPUID2: too many entries".into()))?;
    }
    trim(cpuid);
    Ok(())
}

/// Ends the basic and the extended leaves with the last that says something. KVM has the host's
/// number of leaves, with nothing in those that it does not let the guest use: resource control,
/// enclaves. Linux looks there for twelve of Intel's features, and twice.
fn trim(cpuid: &mut CpuId) {
    cpuid.retain(|entry| [entry.eax, entry.ebx, entry.ecx, entry.edx] != [0; 4]);
    for first in [0, 0x8000_0000] {
        let leaves = cpuid.as_slice().iter().map(|entry| entry.function);
        let last = leaves.filter(|function| function & 0xffff_0000 == first).max();
        for entry in cpuid.as_mut_slice().iter_mut().filter(|entry| entry.function == first) {
            entry.eax = last.unwrap_or(first);
        }
    }
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
        for_vcpu(&mut cpuid, 2, 3, false).unwrap();
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
    fn guests_of_guests_only_where_asked_for() {
        let leaf = |function| kvm_cpuid_entry2 { ecx: u32::MAX, ..entry(function) };
        let leaves = [entry(0), leaf(1), entry(0x8000_0000), leaf(0x8000_0001), leaf(0x8000_000a)];
        for nested in [false, true] {
            let mut cpuid = CpuId::from_entries(&leaves).unwrap();
            for_vcpu(&mut cpuid, 0, 1, nested).unwrap();
            assert_eq!(find(&cpuid, 1, 0).ecx, if nested { u32::MAX } else { !VMX });
            assert_eq!(find(&cpuid, 0x8000_0001, 0).ecx, if nested { u32::MAX } else { !SVM });
            let svm = cpuid.as_slice().iter().any(|entry| entry.function == 0x8000_000a);
            assert_eq!(svm, nested);
        }
    }

    #[test]
    fn the_last_leaf_says_something() {
        let empty = |function| kvm_cpuid_entry2 { function, ..Default::default() };
        let group = |first, last| kvm_cpuid_entry2 { eax: last, ..entry(first) };
        let leaves = [
            group(0, 0x1f),
            entry(1),
            empty(0x5),
            entry(0xd),
            empty(0x10),
            entry(0x1f),
            group(0x4000_0000, 0x4000_0001),
            empty(0x4000_0001),
            group(0x8000_0000, 0x8000_0022),
            entry(0x8000_0008),
            empty(0x8000_0022),
        ];
        let mut cpuid = CpuId::from_entries(&leaves).unwrap();
        for_vcpu(&mut cpuid, 0, 1, false).unwrap();
        assert_eq!(find(&cpuid, 0, 0).eax, 0xd);
        assert_eq!(find(&cpuid, 0x8000_0000, 0).eax, 0x8000_0008);
        assert_eq!(find(&cpuid, 0x4000_0000, 0).eax, 0x4000_0001);
        assert!(cpuid.as_slice().iter().all(|e| ![0x5, 0x10, 0x1f].contains(&e.function)));
    }

    #[test]
    fn our_topology_is_not_cut_off() {
        let first = kvm_cpuid_entry2 { eax: 0x6, ..entry(0) };
        let mut cpuid = CpuId::from_entries(&[first, entry(1), entry(6)]).unwrap();
        for_vcpu(&mut cpuid, 1, 2, false).unwrap();
        assert_eq!(find(&cpuid, 0, 0).eax, 0xb);
    }

    #[test]
    fn a_register_of_intels_only() {
        for (vendor, has) in [(*b"Genu", true), (*b"Auth", false)] {
            let first = kvm_cpuid_entry2 { ebx: u32::from_le_bytes(vendor), ..entry(0) };
            let seven = kvm_cpuid_entry2 { edx: u32::MAX, ..entry(7) };
            let mut cpuid = CpuId::from_entries(&[first, seven]).unwrap();
            for_vcpu(&mut cpuid, 0, 1, false).unwrap();
            let edx = find(&cpuid, 7, 0).edx;
            assert_eq!(edx, if has { u32::MAX } else { !ARCH_CAPABILITIES });
        }
    }

    #[test]
    fn only_the_last_caches_are_shared() {
        // What the host's say of sharing and cores is all ones; self-initialising, of a level and a type.
        let cache = |function, index, level: u32, kind: u32| kvm_cpuid_entry2 {
            index,
            eax: 0xffff_c000 | 1 << 8 | level << 5 | kind,
            ..entry(function)
        };
        let all = |leaf| {
            [(0, 1, 1), (1, 2, 3), (2, 3, 3), (3, 0, 0)].map(|it| cache(leaf, it.0, it.1, it.2))
        };
        let leaves = [&all(0x4)[..], &all(0x8000_001d)].concat();
        for (count, intel, amd) in [(1, [0, 0, 0], [0, 0, 0]), (3, [0, 0, 3], [0, 0, 2])] {
            let mut cpuid = CpuId::from_entries(&leaves).unwrap();
            for_vcpu(&mut cpuid, 0, count, false).unwrap();
            for (index, level, kind) in [(0, 1, 1), (1, 2, 3), (2, 3, 3)] {
                let own = 1 << 8 | level << 5 | kind;
                let cores = if count == 1 { 0 } else { 3 };
                let sharing = intel[index as usize] << 14;
                assert_eq!(find(&cpuid, 0x4, index).eax, cores << 26 | sharing | own);
                assert_eq!(find(&cpuid, 0x8000_001d, index).eax, amd[index as usize] << 14 | own);
            }
            // No more caches: as it is.
            for leaf in [0x4, 0x8000_001d] {
                assert_eq!(find(&cpuid, leaf, 3).eax, 0xffff_c100);
            }
        }
    }

    #[test]
    #[cfg(feature = "snapshot")]
    fn a_cpu_lacks_what_was_shown_and_is_not_there() {
        let vendor = |name: [u8; 4]| kvm_cpuid_entry2 { ebx: u32::from_le_bytes(name), ..entry(0) };
        let seven = |index, ebx, ecx| kvm_cpuid_entry2 {
            flags: SIGNIFICANT_INDEX,
            index,
            eax: 0,
            ebx,
            ecx,
            ..entry(7)
        };
        let intel = vendor(*b"Genu");
        let host = [intel, seven(0, 0b111, 0), seven(1, 0b1, 0)];
        assert_eq!(lacks(&host, &host, &host), None);
        // Not shown, or KVM's own, which no host says that it supports.
        let shown = [intel, seven(0, 0b011, 0b1), seven(1, 0b1, 0)];
        let less = [intel, seven(0, 0b011, 0), seven(1, 0b1, 0)];
        assert_eq!(lacks(&shown, &host, &less), None);
        let less = [intel, seven(0, 0b101, 0), seven(1, 0b1, 0)];
        let text = lacks(&shown, &host, &less).unwrap();
        assert!(text.contains("0x7.0 ebx bit 1"), "{text}");
        let less = [intel, seven(0, 0b111, 0)];
        let text = lacks(&shown, &host, &less).unwrap();
        assert!(text.contains("0x7.1 ebx bit 0"), "{text}");
        // The index of a leaf that has one entry says nothing.
        let one = |ecx| [intel, kvm_cpuid_entry2 { index: 7, ecx, ..entry(1) }];
        assert!(lacks(&one(1), &one(1), &one(0)).unwrap().contains("0x1.0 ecx bit 0"));
        let amd = vendor(*b"Auth");
        assert!(lacks(&[amd], &[amd], &[intel]).unwrap().contains("vendor"));
        let of = |entry| CpuId::from_entries(&[entry]).unwrap();
        assert_eq!([intel, amd].map(|it| is_intel(&of(it))), [true, false]);
        assert_eq!([intel, amd].map(|it| is_amd(&of(it))), [false, true]);
    }

    #[test]
    fn one_cpu_is_no_smp() {
        let one = kvm_cpuid_entry2 { edx: u32::MAX, ..entry(1) };
        let again = kvm_cpuid_entry2 { edx: u32::MAX, ..entry(0x8000_0001) };
        let mut cpuid = CpuId::from_entries(&[one, again]).unwrap();
        for_vcpu(&mut cpuid, 0, 1, false).unwrap();
        assert_eq!(find(&cpuid, 1, 0).edx, !(HTT | MCE | MCA));
        assert_eq!(find(&cpuid, 0x8000_0001, 0).edx, !(MCE | MCA));
        let levels = [find(&cpuid, 0xb, 0), find(&cpuid, 0xb, 1)];
        assert_eq!(levels.map(|e| (e.eax, e.ebx, e.ecx)), [(0, 1, LEVEL_SMT), (0, 0, 1)]);
    }
}
