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

/// The same as a 32-bit file.
fn head32(entry: u32, programs: &[Program]) -> Vec<u8> {
    let mut head = Vec::from(*b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0");
    for value in [entry, 52, 0, 0] {
        head.extend(value.to_le_bytes());
    }
    head.extend([52, 0, 32, 0, programs.len() as u8, 0, 0, 0, 0, 0, 0, 0]);
    for (kind, offset, paddr, file_size, mem_size) in programs {
        let [offset, paddr] = [*offset as u32, *paddr as u32];
        let [file_size, mem_size] = [*file_size as u32, *mem_size as u32];
        let vaddr = paddr | 0xc000_0000;
        for value in [*kind, offset, vaddr, paddr, file_size, mem_size, 5, 0x1000] {
            head.extend(value.to_le_bytes());
        }
    }
    head.resize(HEAD, 0);
    head
}

/// The program headers that `head` has, or what it comes to.
fn parse(head: &[u8], file_len: u64) -> Result<Image, Error> {
    let headers = Headers::read(head, file_len)?;
    let Range { start, len } = headers.programs();
    let table = head.get(start as usize..).and_then(|rest| rest.get(..len as usize));
    headers.image(table.unwrap_or_default())
}

fn read(programs: &[Program]) -> Result<Image, Error> {
    parse(&head(0x100_0000, programs), FILE_LEN)
}

#[test]
fn reads_segments_and_notes() {
    let image = read(&[TEXT, NOTE, DATA]).unwrap();
    assert_eq!(image.entry, 0x100_0000);
    let notes = NoteSegment { file: Range { start: 0x1200, len: 0x40 }, align: 0x1000 };
    assert_eq!(image.notes.as_slice(), [notes]);
    assert!(image.is_64 && image.maps_as_linux);
    let data =
        Segment { offset: 0x2000, file_size: 0x100, paddr: 0x200_0000, mem_size: 0x4000, flags: 5 };
    assert_eq!(image.segments[1], data);
    assert_eq!(image.end(), 0x200_4000);
}

#[test]
fn reads_32_bits() {
    let image = parse(&head32(0x100_0000, &[TEXT, NOTE, DATA]), FILE_LEN).unwrap();
    let wide = read(&[TEXT, NOTE, DATA]).unwrap();
    assert_eq!(image, Image { is_64: false, maps_as_linux: false, ..wide });
    let cut = &head32(0x100_0000, &[TEXT])[..51];
    assert_eq!(parse(cut, FILE_LEN), Err(Error::Truncated(FILE_LEN)));
}

#[test]
fn architectures_have_their_names() {
    for (machine, name) in [
        (3, "32-bit x86"),
        (8, "MIPS"),
        (20, "PowerPC"),
        (21, "64-bit PowerPC"),
        (22, "s390"),
        (40, "Arm"),
        (62, "x86-64"),
        (183, "AArch64"),
        (243, "RISC-V"),
        (258, "LoongArch"),
        (1, "another architecture"),
    ] {
        assert!(Error::Machine(machine).to_string().contains(name), "{machine}: {name}");
    }
}

#[test]
fn as_many_program_headers_as_there_may_be() {
    for (count, fits) in [(MAX_PROGRAMS, true), (MAX_PROGRAMS + 1, false)] {
        let mut head = head(0x100_0000, &[]);
        head[56..58].copy_from_slice(&count.to_le_bytes());
        let read = Headers::read(&head, 1 << 20);
        assert_eq!(read.is_ok(), fits, "{count}");
        assert!(fits || read == Err(Error::TooManySegments));
    }
}

#[test]
fn the_first_mib_is_not_for_segments() {
    let ram = [Range { start: 0, len: 0x400_0000 }];
    for (paddr, fits) in [(layout::HIGH_MEMORY, true), (layout::HIGH_MEMORY - 0x1000, false)] {
        let image = read(&[(PT_LOAD, 0x1000, paddr, 0x800, 0x800)]).unwrap();
        assert_eq!(check_fits(&image, &ram).is_ok(), fits, "{paddr:#x}");
    }
}

/// Where they are is the linker's affair.
#[test]
fn program_headers_anywhere() {
    for far in [0x1e0, 0x1001, FILE_LEN - 112] {
        let mut file = head(0x100_0000, &[TEXT, DATA]);
        file.resize(FILE_LEN as usize, 0);
        file.copy_within(64..64 + 112, far as usize);
        file[64..64 + 112].fill(0xff);
        file[32..40].copy_from_slice(&far.to_le_bytes());
        let headers = Headers::read(&file[..HEAD], FILE_LEN).unwrap();
        assert_eq!(headers.programs(), Range { start: far, len: 112 });
        let image = headers.image(&file[far as usize..][..112]).unwrap();
        assert_eq!(image, read(&[TEXT, DATA]).unwrap());
        assert_eq!(headers.image(&file[far as usize..][..56]), Err(Error::Malformed));
        assert_eq!(Headers::read(&file[..HEAD], far + 111), Err(Error::Truncated(far + 111)));
    }
}

#[test]
fn linux_is_known_by_its_addresses() {
    let mut head = head(0x100_0000, &[TEXT]);
    assert!(parse(&head, FILE_LEN).unwrap().maps_as_linux);
    // p_vaddr
    head[64 + 16..64 + 24].copy_from_slice(&0x100_0000u64.to_le_bytes());
    assert!(!parse(&head, FILE_LEN).unwrap().maps_as_linux);
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
    assert_eq!(parse(&head(0x100_0000, &[TEXT])[..63], FILE_LEN), Err(Error::Truncated(FILE_LEN)));
    assert_eq!(change(4, &[0]), Error::Malformed);
    assert_eq!(change(5, &[2]), Error::BigEndian);
    assert_eq!(change(18, &[183, 0]), Error::Machine(183));
    assert_eq!(change(16, &[1, 0]), Error::NotExecutable(1));
    assert_eq!(change(54, &[32, 0]), Error::Malformed);
    assert_eq!(change(56, &[0, 0]), Error::NoSegment);
    assert_eq!(change(18, &[3, 0]), Error::Machine(3));
    assert_eq!(change(56, &[1, 1]), Error::TooManySegments);
    assert_eq!(change(32, &u64::MAX.to_le_bytes()), Error::Truncated(FILE_LEN));
    assert_eq!(read(&[TEXT]).unwrap().check_entry(0x100_1000), Err(Error::Entry(0x100_1000)));
    assert_eq!(read(&[NOTE]), Err(Error::NoSegment));
    assert_eq!(read(&[(PT_LOAD, 0x1000, 0, 0, 0)]), Err(Error::NoSegment));
    assert_eq!(read(&[TEXT; 17]), Err(Error::Overlap(0x100_0000)));
    let notes: Vec<Program> = [TEXT].into_iter().chain([NOTE; MAX_NOTES + 1]).collect();
    assert!(read(&notes[..=MAX_NOTES]).is_ok());
    assert_eq!(read(&notes), Err(Error::TooManySegments));
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
        "a kernel for AArch64 (ELF machine 183); one for x86 is needed"
    );
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

/// The entry in notes as most linkers write them.
fn pvh_entry(notes: &[u8]) -> Option<u32> {
    Notes::new(notes, 4).pvh_entry()
}

#[test]
fn finds_the_pvh_entry() {
    let other = note(b"Linux\0", 257, &[1, 2, 3]);
    let wrong_owner = note(b"GNU\0", 18, &[9, 9, 9, 9]);
    let four = note(b"Xen\0", 18, &0x100_0450u32.to_le_bytes());
    let eight = note(b"Xen\0", 18, &0x100_0450u64.to_le_bytes());
    let unended = note(b"Xen", 18, &0x100_0450u32.to_le_bytes());
    for entry in [&four, &eight, &unended] {
        let notes = [&other[..], &wrong_owner, entry].concat();
        assert_eq!(pvh_entry(&notes), Some(0x100_0450));
        assert_eq!(pvh_entry(&notes[..notes.len() - 4]), None);
    }
    assert_eq!(pvh_entry(&[other, wrong_owner].concat()), None);
    assert_eq!(pvh_entry(&note(b"Xen\0", 18, &(1u64 << 32).to_le_bytes())), None);
    assert_eq!(pvh_entry(&note(b"Xen\0", 18, &[1, 2])), None);
    assert_eq!(pvh_entry(&[]), None);
}

/// A note as an assembler of 64-bit files may write it: value and end at multiples of 8.
fn wide_note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [name.len() as u32, value.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    for part in [name, value] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(8), 0);
    }
    note
}

#[test]
fn notes_are_aligned_as_their_segment_says() {
    let property = wide_note(b"GNU\0", 5, &[1; 12]);
    let entry = wide_note(b"Xen\0", 18, &0x100_0450u32.to_le_bytes());
    let both = [&property[..], &entry].concat();
    assert_eq!(Notes::new(&both, 8).pvh_entry(), Some(0x100_0450));
    assert_eq!(Notes::new(&both, 8).count(), 2);
    assert_eq!(Notes::new(&both, 4).pvh_entry(), None);
    // The last value's padding may be missing.
    assert_eq!(Notes::new(&both[..both.len() - 4], 8).pvh_entry(), Some(0x100_0450));
    for align in [0, 1, 2, 4] {
        let narrow = note(b"Xen\0", 18, &0x100_0450u32.to_le_bytes());
        assert_eq!(Notes::new(&narrow, align).pvh_entry(), Some(0x100_0450));
    }
    assert_eq!(Notes::new(&both, 16).count(), 0);
}

/// What binutils' readelf finds in a file of such notes is what is found here.
#[test]
fn notes_are_those_of_readelf() {
    use std::process::Command;
    for (align, write) in [(4u64, note as fn(&[u8], u32, &[u8]) -> Vec<u8>), (8, wide_note)] {
        let names: [&[u8]; 4] = [b"GNU\0", b"Linux\0", b"a", b"Xen\0"];
        let notes: Vec<u8> =
            names.iter().zip(1..).flat_map(|(name, len)| write(name, 18, &[7; 9][..len])).collect();
        let size = notes.len() as u64;
        let mut file = head(0x100_0000, &[TEXT, (PT_NOTE, 0x1200, 0, size, size)]);
        file[64 + 56 + 48..][..8].copy_from_slice(&align.to_le_bytes());
        file.resize(FILE_LEN as usize, 0);
        file[0x1200..][..notes.len()].copy_from_slice(&notes);
        let path =
            std::env::temp_dir().join(std::format!("brisk-notes-{align}-{}", std::process::id()));
        std::fs::write(&path, &file).unwrap();
        let output = Command::new("readelf").args(["-n", "--wide"]).arg(&path).output().unwrap();
        std::fs::remove_file(&path).unwrap();
        let text = std::string::String::from_utf8(output.stdout).unwrap();
        // "  Xen                  0x00000004\t..."
        let theirs: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?, words.next().filter(|size| size.starts_with("0x"))?))
            })
            .collect();
        let ours: Vec<_> = Notes::new(&notes, align)
            .map(|(name, _, value)| {
                (std::str::from_utf8(name).unwrap(), std::format!("{:#010x}", value.len()))
            })
            .collect();
        let ours: Vec<(&str, &str)> = ours.iter().map(|(name, size)| (*name, &**size)).collect();
        assert_eq!(ours, theirs, "{text}");
        assert_eq!(ours.len(), 4);
    }
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
    let range = ours.notes[0].file;
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
        let _ = [4, 8].map(|align| Notes::new(&bytes, align).count());
        let _ = parse(&[&b"\x7fELF\x02\x01"[..], &bytes].concat(), len);
        let _ = parse(&[&b"\x7fELF\x01\x01"[..], &bytes].concat(), len);
    }

    #[test]
    fn what_is_accepted_is_safe_to_load(
        changes in prop::collection::vec((4usize..64 + 3 * 56, any::<u8>()), 1..6),
        len in 0u64..0x4000,
        wide in any::<bool>(),
    ) {
        let head = if wide { head } else { |entry, programs: &_| head32(entry as u32, programs) };
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
    let is_linux = |bytes: &[u8]| Notes::new(bytes, 4).is_linux();
    assert!(is_linux(&[note(b"GNU\0\0\0\0\0", 4), note(b"Linux\0\0\0", 6)].concat()));
    assert!(!is_linux(&note(b"Xen\0\0\0\0\0", 4)));
    assert!(!is_linux(&note(b"Linux\0\0\0", 6)[..8]));
}
