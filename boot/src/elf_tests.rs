use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;

use super::*;

/// (kind, offset, paddr, file_size, mem_size)
type Program = (u32, u64, u64, u64, u64);

const TEXT: Program = (PT_LOAD, 0x1000, 0x100_0000, 0x800, 0x1000);
const DATA: Program = (PT_LOAD, 0x2000, 0x200_0000, 0x100, 0x4000);
const NOTE: Program = (PT_NOTE, 0x1200, 0, 0x40, 0x40);
const FILE_LEN: u64 = 0x3000;

fn head(entry: u64, programs: &[Program]) -> Vec<u8> {
    let mut head = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
    for value in [entry, 64, 0] {
        head.extend(value.to_le_bytes());
    }
    head.extend([0, 0, 0, 0, 64, 0, 56, 0, programs.len() as u8, 0, 0, 0, 0, 0, 0, 0]);
    for (kind, offset, paddr, file_size, mem_size) in programs {
        head.extend(kind.to_le_bytes());
        head.extend(5u32.to_le_bytes());
        for value in [
            *offset,
            paddr.wrapping_add(0xffff_ffff_8000_0000),
            *paddr,
            *file_size,
            *mem_size,
            0x1000,
        ] {
            head.extend(value.to_le_bytes());
        }
    }
    head.resize(HEAD, 0);
    head
}

fn read(programs: &[Program]) -> Result<Image, Error> {
    parse(&head(0x100_0000, programs), FILE_LEN)
}

#[test]
fn reads_segments_and_notes() {
    let image = read(&[TEXT, NOTE, DATA]).unwrap();
    assert_eq!(image.entry, 0x100_0000);
    assert_eq!(image.notes.as_slice(), [Range { start: 0x1200, len: 0x40 }]);
    let data =
        Segment { offset: 0x2000, file_size: 0x100, paddr: 0x200_0000, mem_size: 0x4000, flags: 5 };
    assert_eq!(image.segments[1], data);
    assert_eq!(image.end(), 0x200_4000);
}

#[test]
fn names_what_is_wrong() {
    let change = |at: usize, bytes: &[u8]| {
        let mut head = head(0x100_0000, &[TEXT]);
        head[at..at + bytes.len()].copy_from_slice(bytes);
        parse(&head, FILE_LEN).unwrap_err()
    };
    assert_eq!(parse(&[], 0), Err(Error::Empty));
    assert_eq!(change(0, b"MZ"), Error::NotElf);
    assert_eq!(parse(b"\x7fELF\x02\x01", 6), Err(Error::Truncated(6)));
    assert_eq!(parse(&head(0x100_0000, &[TEXT])[..100], 100), Err(Error::Truncated(100)));
    assert_eq!(parse(&head(0x100_0000, &[TEXT])[..100], FILE_LEN), Err(Error::HeadersTooFar));
    assert_eq!(change(4, &[1]), Error::Class32(62));
    assert_eq!(change(4, &[0]), Error::Malformed);
    assert_eq!(change(5, &[2]), Error::BigEndian);
    assert_eq!(change(18, &[183, 0]), Error::Machine(183));
    assert_eq!(change(16, &[1, 0]), Error::NotExecutable(1));
    assert_eq!(change(54, &[32, 0]), Error::Malformed);
    assert_eq!(change(56, &[0, 0]), Error::NoSegment);
    assert_eq!(change(32, &0x2800u64.to_le_bytes()), Error::HeadersTooFar);
    assert_eq!(change(32, &u64::MAX.to_le_bytes()), Error::Truncated(FILE_LEN));
    assert_eq!(change(24, &0x100_1000u64.to_le_bytes()), Error::Entry(0x100_1000));
    assert_eq!(read(&[NOTE]), Err(Error::NoSegment));
    assert_eq!(read(&[(PT_LOAD, 0x1000, 0, 0, 0)]), Err(Error::NoSegment));
    assert_eq!(read(&[TEXT; 17]), Err(Error::Overlap(0x100_0000)));
    assert_eq!(read(&[TEXT, NOTE, NOTE, NOTE, NOTE, NOTE]), Err(Error::TooManySegments));
    let many: Vec<Program> =
        (0..17).map(|i| (PT_LOAD, 0, 0x100_0000 + i * 0x1000, 1, 0x1000)).collect();
    assert!(read(&many[..16]).is_ok());
    assert_eq!(read(&many), Err(Error::TooManySegments));
}

#[test]
fn names_bad_segments() {
    let overlap = (PT_LOAD, 0x1000, 0x100_0fff, 1, 1);
    assert_eq!(read(&[TEXT, overlap]), Err(Error::Overlap(0x100_0fff)));
    let past = (PT_LOAD, 0x2fff, 0x200_0000, 2, 2);
    assert_eq!(read(&[TEXT, past]), Err(Error::PastEnd { index: 1, file_len: FILE_LEN }));
    let wraps_file = (PT_LOAD, u64::MAX, 0x200_0000, 2, 2);
    assert_eq!(read(&[wraps_file]), Err(Error::PastEnd { index: 0, file_len: FILE_LEN }));
    let wraps = (PT_LOAD, 0, u64::MAX, 2, 2);
    assert_eq!(read(&[wraps]), Err(Error::SegmentSize(0)));
    let shrinks = (PT_LOAD, 0, 0x200_0000, 2, 1);
    assert_eq!(read(&[shrinks]), Err(Error::SegmentSize(0)));
}

#[test]
fn messages_are_for_a_person() {
    assert_eq!(
        Error::Machine(183).to_string(),
        "a kernel for AArch64 (ELF machine 183); a 64-bit x86 one is needed"
    );
    assert_eq!(Error::Class32(3).to_string(), "a 32-bit x86 kernel; a 64-bit x86 one is needed");
}

#[test]
fn checks_against_ram() {
    let image = read(&[TEXT, DATA]).unwrap();
    let ram = |len| [Range { start: 0, len }];
    assert_eq!(check_fits(&image, &ram(0x200_4000)), Ok(()));
    let data = Range { start: 0x200_0000, len: 0x4000 };
    assert_eq!(check_fits(&image, &ram(0x200_3fff)), Err(Error::NotInRam(data)));
    assert_eq!(check_fits(&image, &[]), Err(Error::NotInRam(image.segments[0].memory())));
    let low = read(&[TEXT, (PT_LOAD, 0, 0xf_f000, 1, 0x1000)]).unwrap();
    let at = Range { start: 0xf_f000, len: 0x1000 };
    assert_eq!(check_fits(&low, &ram(0x1000_0000)), Err(Error::NotInRam(at)));
}

fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [name.len() as u32, value.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    for part in [name, value] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

#[test]
fn finds_the_pvh_entry() {
    let other = note(b"Linux\0", 257, &[1, 2, 3]);
    let wrong_owner = note(b"GNU\0", 18, &[9, 9, 9, 9]);
    let four = note(b"Xen\0", 18, &0x100_0450u32.to_le_bytes());
    let eight = note(b"Xen\0", 18, &0x100_0450u64.to_le_bytes());
    for entry in [&four, &eight] {
        let notes = [&other[..], &wrong_owner, entry].concat();
        assert_eq!(pvh_entry(&notes), Some(0x100_0450));
        assert_eq!(pvh_entry(&notes[..notes.len() - 4]), None);
    }
    assert_eq!(pvh_entry(&[other, wrong_owner].concat()), None);
    assert_eq!(pvh_entry(&note(b"Xen\0", 18, &(1u64 << 32).to_le_bytes())), None);
    assert_eq!(pvh_entry(&note(b"Xen\0", 18, &[1, 2])), None);
    assert_eq!(pvh_entry(&[]), None);
}

/// rust-vmm's loader and this one see the same in the same file.
#[test]
fn agrees_with_linux_loader() {
    use linux_loader::loader::elf::Elf;
    use linux_loader::loader::{KernelLoader, elf::PvhBootCapability};
    use std::io::Cursor;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    let mut file = head(0x100_0000, &[TEXT, NOTE, DATA]);
    file.resize(FILE_LEN as usize, 0);
    file[0x1000..0x1004].copy_from_slice(b"text");
    file[0x2000..0x2004].copy_from_slice(b"data");
    let notes = note(b"Xen\0", 18, &0x100_0450u64.to_le_bytes());
    file[0x1200..0x1200 + notes.len()].copy_from_slice(&notes);
    let ours = parse(&file[..HEAD], FILE_LEN).unwrap();
    let range = ours.notes[0];
    let pvh = pvh_entry(&file[range.start as usize..range.end().unwrap() as usize]).unwrap();

    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
    let theirs = Elf::load(&memory, None, &mut Cursor::new(&file), None).unwrap();
    assert_eq!(theirs.kernel_load.0, ours.entry);
    assert_eq!(theirs.pvh_boot_cap, PvhBootCapability::PvhEntryPresent(GuestAddress(pvh.into())));
    for segment in &ours.segments {
        let mut loaded = [0; 4];
        memory.read_slice(&mut loaded, GuestAddress(segment.paddr)).unwrap();
        assert_eq!(loaded, file[segment.offset as usize..][..4]);
    }
}

proptest! {
    #[test]
    fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512), len in any::<u64>()) {
        let _ = parse(&bytes, len);
        let _ = pvh_entry(&bytes);
        let _ = parse(&[&b"\x7fELF\x02\x01"[..], &bytes].concat(), len);
    }

    #[test]
    fn what_is_accepted_is_safe_to_load(
        changes in prop::collection::vec((4usize..64 + 3 * 56, any::<u8>()), 1..6),
        len in 0u64..0x4000,
    ) {
        let mut head = head(0x100_0000, &[TEXT, NOTE, DATA]);
        for (at, byte) in changes {
            head[at] = byte;
        }
        if let Ok(image) = parse(&head, len) {
            for (index, segment) in image.segments.iter().enumerate() {
                prop_assert!(segment.offset.checked_add(segment.file_size).unwrap() <= len);
                prop_assert!(segment.file_size <= segment.mem_size);
                let memory = segment.memory();
                prop_assert!(memory.end().is_some());
                prop_assert!(!image.segments[..index].iter().any(|s| s.memory().overlaps(&memory)));
            }
            let _ = check_fits(&image, &[Range { start: 0, len: 1 << 30 }]);
        }
    }

    #[test]
    fn changed_notes_never_panic(at in 0usize..64, byte in any::<u8>(), cut in 0usize..64) {
        let mut notes = [note(b"GNU\0", 1, &[7; 12]), note(b"Xen\0", 18, &[1; 8])].concat();
        let len = notes.len();
        notes[at % len] = byte;
        let _ = pvh_entry(&notes[..cut.min(len)]);
    }
}

#[test]
fn linux_is_known_by_its_notes() {
    let note = |name: &[u8; 8], size: u32| {
        let mut bytes = std::vec::Vec::new();
        for word in [size, 4, 0x100] {
            bytes.extend_from_slice(&u32::to_le_bytes(word));
        }
        bytes.extend_from_slice(&name[..size.next_multiple_of(4) as usize]);
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        bytes
    };
    assert!(is_linux(&[note(b"GNU\0\0\0\0\0", 4), note(b"Linux\0\0\0", 6)].concat()));
    assert!(!is_linux(&note(b"Xen\0\0\0\0\0", 4)));
    assert!(!is_linux(&note(b"Linux\0\0\0", 6)[..8]));
}
