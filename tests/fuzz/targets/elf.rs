//! The reader for ELF kernels.
#![no_main]

use brisk_boot::{Range, elf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, &[u8])| {
    let (beyond, data) = input;
    let _ = elf::is_elf(data);
    let _ = elf::is_linux(data);
    let _ = elf::pvh_entry(data);
    let len = data.len() as u64 + u64::from(beyond);
    let Ok(image) = elf::parse(&data[..data.len().min(elf::HEAD)], len) else { return };
    let ram = Range { start: 0, len: 1 << 30 };
    let fits = elf::check_fits(&image, &[ram]).is_ok();
    assert!(image.check_entry(image.entry).is_ok() && !image.segments.is_empty());
    for (index, segment) in image.segments.iter().enumerate() {
        assert!(segment.offset.checked_add(segment.file_size).is_some_and(|end| end <= len));
        assert!(segment.file_size <= segment.mem_size && segment.mem_size > 0);
        let memory = segment.memory();
        assert!(memory.end().is_some_and(|end| end <= image.end()));
        assert!(!fits || ram.contains(&memory));
        let mut others = image.segments[index + 1..].iter();
        assert!(others.all(|other| !other.memory().overlaps(&memory)));
    }
    for notes in &image.notes {
        assert!(Range { start: 0, len }.contains(notes));
    }
});
