use proptest::prelude::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use super::*;

/// A file with a 2.15 header, 3 sectors of set-up and 64 bytes of payload at the kernel's byte 16.
fn file() -> Vec<u8> {
    let mut file = vec![0; 4 * 512 + 16 + 64];
    let header = SetupHeader {
        setup_sects: 3,
        boot_flag: BOOT_FLAG.into(),
        jump: u16::from_le_bytes([0xeb, (OFFSET + 0x7b - 0x202) as u8]).into(),
        header: MAGIC.into(),
        version: 0x020f.into(),
        loadflags: LOADED_HIGH,
        xloadflags: XLF_KERNEL_64.into(),
        payload_offset: 16.into(),
        payload_length: 64.into(),
        pref_address: 0x100_0000.into(),
        init_size: 0x200_0000.into(),
        ..SetupHeader::default()
    };
    file[OFFSET..HEAD].copy_from_slice(header.as_bytes());
    file
}

fn with(change: impl FnOnce(&mut SetupHeader)) -> Result<Header, Error> {
    let mut file = file();
    let (header, _) = SetupHeader::mut_from_prefix(&mut file[OFFSET..]).unwrap();
    change(header);
    parse(&file, file.len() as u64)
}

#[test]
fn reads_a_header() {
    let header = with(|_| ()).unwrap();
    assert_eq!(header.payload, Range { start: 4 * 512 + 16, len: 64 });
    assert_eq!((header.version, header.xloadflags), (0x020f, 1));
    assert_eq!((header.init_size, header.pref_address), (0x200_0000, 0x100_0000));
    assert_eq!(with(|h| h.setup_sects = 0).unwrap_err(), Error::Truncated(4 * 512 + 80));
}

#[test]
fn clears_what_is_after_the_files_own_header() {
    // A 2.12 header ends before `kernel_info_offset`.
    let header = with(|h| {
        h.jump = u16::from_le_bytes([0xeb, (0x268 - 0x202) as u8]).into();
        h.handover_offset = 0x190.into();
        h.kernel_info_offset = 0x1234_5678.into();
    });
    let header = header.unwrap().setup_header;
    assert_eq!(header.handover_offset, 0x190);
    assert_eq!(header.kernel_info_offset, 0);
}

#[test]
fn names_what_is_wrong() {
    assert_eq!(parse(&[], 0).unwrap_err(), Error::Empty);
    assert_eq!(parse(&[0; 4096], 4096).unwrap_err(), Error::NotBzImage);
    assert_eq!(with(|h| h.boot_flag = 0.into()).unwrap_err(), Error::NotBzImage);
    assert_eq!(with(|h| h.version = 0x0207.into()).unwrap_err(), Error::TooOld(0x0207));
    assert_eq!(with(|h| h.loadflags = 0).unwrap_err(), Error::NotLoadedHigh);
    assert_eq!(with(|h| h.xloadflags = 0.into()).unwrap_err(), Error::Not64Bit);
    assert_eq!(with(|h| h.payload_length = 0.into()).unwrap_err(), Error::NoPayload);
    let truncated = Err(Error::Truncated(4 * 512 + 80));
    assert_eq!(with(|h| h.payload_length = 65.into()).map(|_| ()), truncated);
    assert_eq!(with(|h| h.payload_offset = u32::MAX.into()).map(|_| ()), truncated);
    let file = file();
    assert_eq!(parse(&file[..0x230], 0x230).unwrap_err(), Error::Truncated(0x230));
    assert!(Error::TooOld(0x0207).to_string().starts_with("boot protocol 2.07 is too old"));
}

#[test]
fn tells_the_compression() {
    for (magic, kind) in [
        (&b"\x1f\x8b\x08"[..], Compression::Gzip),
        (b"BZh9", Compression::Bzip2),
        (b"\x5d\0\0\0\x04", Compression::Lzma),
        (b"\xfd7zXZ\0\0", Compression::Xz),
        (b"\x89LZO\0\r", Compression::Lzo),
        (b"\x02\x21\x4c\x18\0", Compression::Lz4),
        (b"\x28\xb5\x2f\xfd\0", Compression::Zstd),
        (b"\x7fELF", Compression::None),
    ] {
        assert_eq!(Compression::of(magic), Some(kind));
    }
    assert_eq!(Compression::of(b"\x1f"), None);
    assert_eq!(Compression::of(b""), None);
    assert_eq!(unpacked_size(&[1, 2, 3]), None);
    assert_eq!(unpacked_size(&[9, 4, 3, 2, 1]), Some(0x0102_0304));
}

/// The same layout as rust-vmm's, which is generated from the kernel's header file.
#[test]
fn setup_header_is_linux_loaders() {
    use linux_loader::bootparam::setup_header as Theirs;
    use std::mem::offset_of;
    assert_eq!(size_of::<Theirs>(), size_of::<SetupHeader>());
    assert_eq!(offset_of!(Theirs, version), offset_of!(SetupHeader, version));
    assert_eq!(offset_of!(Theirs, type_of_loader), offset_of!(SetupHeader, type_of_loader));
    assert_eq!(offset_of!(Theirs, cmd_line_ptr), offset_of!(SetupHeader, cmd_line_ptr));
    assert_eq!(offset_of!(Theirs, xloadflags), offset_of!(SetupHeader, xloadflags));
    assert_eq!(offset_of!(Theirs, payload_offset), offset_of!(SetupHeader, payload_offset));
    assert_eq!(offset_of!(Theirs, pref_address), offset_of!(SetupHeader, pref_address));
    assert_eq!(offset_of!(Theirs, init_size), offset_of!(SetupHeader, init_size));
}

proptest! {
    #[test]
    fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..1024), len in any::<u64>()) {
        let _ = parse(&bytes, len);
        let _ = Compression::of(&bytes);
    }

    #[test]
    fn a_changed_file_never_gives_a_payload_outside(
        changes in prop::collection::vec((0x1f0usize..HEAD, any::<u8>()), 1..8),
        len in 0u64..0x1_0000,
    ) {
        let mut file = file();
        for (at, byte) in changes {
            file[at] = byte;
        }
        if let Ok(header) = parse(&file, len) {
            prop_assert!(header.payload.end().unwrap() <= len);
            prop_assert!(header.payload.len >= 4);
        }
    }
}
