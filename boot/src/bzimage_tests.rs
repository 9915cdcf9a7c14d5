use proptest::prelude::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use super::*;

/// Bytes of [`file`].
const LEN: usize = 4 * 512 + 1024;

/// A file with a 2.15 header, 3 sectors of set-up and 1 KiB of kernel.
fn file() -> Vec<u8> {
    let mut file = vec![0; LEN];
    let header = SetupHeader {
        setup_sects: 3,
        boot_flag: BOOT_FLAG.into(),
        jump: u16::from_le_bytes([0xeb, (OFFSET + 0x7b - 0x202) as u8]).into(),
        header: MAGIC.into(),
        version: 0x020f.into(),
        loadflags: LOADED_HIGH,
        xloadflags: XLF_KERNEL_64.into(),
        syssize: (1024 / 16).into(),
        pref_address: 0x100_0000.into(),
        init_size: 0x200_0000.into(),
        ..SetupHeader::default()
    };
    file[OFFSET..HEAD].copy_from_slice(header.as_bytes());
    file
}

fn with(change: impl FnOnce(&mut SetupHeader)) -> Result<Image, Error> {
    let mut file = file();
    let (header, _) = SetupHeader::mut_from_prefix(&mut file[OFFSET..]).unwrap();
    change(header);
    parse(&file, file.len() as u64)
}

#[test]
fn reads_a_header() {
    let image = with(|_| ()).unwrap();
    assert_eq!(image.code, Range { start: 4 * 512, len: 1024 });
    assert_eq!(image.memory, Range { start: 0x100_0000, len: 0x200_0000 });
    assert_eq!(image.entry, 0x100_0200);
    // 0 stands for 4: one sector more than there is.
    assert_eq!(with(|h| h.setup_sects = 0).unwrap_err(), Error::Truncated(LEN as u64));
}

#[test]
fn needs_all_its_memory() {
    let image = with(|_| ()).unwrap();
    let ram = |len| [Range { start: 0, len: 0xa_0000 }, Range { start: 0x10_0000, len }];
    assert_eq!(image.check_fits(&ram(0x300_0000)), Ok(()));
    assert_eq!(image.check_fits(&ram(0x2ef_0000)), Err(Error::NotInRam(image.memory)));
    let low = with(|h| h.pref_address = 0xf_f000.into()).unwrap();
    let all = [Range { start: 0, len: 1 << 30 }];
    assert_eq!(low.check_fits(&all), Err(Error::NotInRam(low.memory)));
}

#[test]
fn clears_what_is_after_the_files_own_header() {
    // A 2.12 header ends before `kernel_info_offset`.
    let image = with(|h| {
        h.jump = u16::from_le_bytes([0xeb, (0x268 - 0x202) as u8]).into();
        h.handover_offset = 0x190.into();
        h.kernel_info_offset = 0x1234_5678.into();
    });
    let header = image.unwrap().setup_header;
    assert_eq!(header.handover_offset, 0x190);
    assert_eq!(header.kernel_info_offset, 0);
}

#[test]
fn names_what_is_wrong() {
    assert_eq!(parse(&[], 0).unwrap_err(), Error::Empty);
    assert_eq!(parse(&[0; 4096], 4096).unwrap_err(), Error::NotBzImage);
    assert_eq!(with(|h| h.boot_flag = 0.into()).unwrap_err(), Error::NotBzImage);
    assert_eq!(with(|h| h.header = 0.into()).unwrap_err(), Error::NotBzImage);
    assert_eq!(with(|h| h.version = 0x020b.into()).unwrap_err(), Error::TooOld(0x020b));
    assert_eq!(with(|h| h.loadflags = 0).unwrap_err(), Error::NotLoadedHigh);
    assert_eq!(with(|h| h.xloadflags = 0.into()).unwrap_err(), Error::Not64Bit);
    for paragraphs in [0, 0x200 / 16, 0x200_0000 / 16 + 1, u32::MAX] {
        assert_eq!(with(|h| h.syssize = paragraphs.into()).unwrap_err(), Error::Size);
    }
    assert_eq!(with(|h| h.pref_address = u64::MAX.into()).unwrap_err(), Error::Size);
    let truncated = Error::Truncated(LEN as u64);
    assert_eq!(with(|h| h.syssize = (1024 / 16 + 1).into()).unwrap_err(), truncated);
    let file = file();
    assert_eq!(parse(&file[..0x230], 0x230).unwrap_err(), Error::Truncated(0x230));
    assert!(Error::TooOld(0x020b).to_string().starts_with("boot protocol 2.11 is too old"));
}

#[test]
fn takes_what_is_just_enough() {
    assert!(with(|h| h.version = MIN_VERSION.into()).is_ok());
    assert!(with(|h| h.init_size = 1024.into()).is_ok());
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
    }

    #[test]
    fn a_changed_file_never_gives_code_outside(
        changes in prop::collection::vec((0x1f0usize..HEAD, any::<u8>()), 1..8),
        len in 0u64..0x1_0000,
    ) {
        let mut file = file();
        for (at, byte) in changes {
            file[at] = byte;
        }
        if let Ok(image) = parse(&file, len) {
            prop_assert!(image.code.end().unwrap() <= len);
            prop_assert!(image.code.len <= image.memory.len);
            let entry = Range { start: image.entry, len: 1 };
            prop_assert!(image.memory.contains(&entry));
        }
    }
}
