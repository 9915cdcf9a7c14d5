//! The reader for ELF kernels.
#![no_main]

use brisk_boot::{Range, elf, format};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, &[u8])| {
    let (beyond, data) = input;
    for align in [4, 8, u64::from(beyond)] {
        let notes = elf::Notes::new(data, align);
        let _ = (notes.is_linux(), notes.pvh_entry(), notes.count());
    }
    let _ = format::recognise(data);
    let len = data.len() as u64 + u64::from(beyond);
    let Ok(headers) = elf::Headers::read(&data[..data.len().min(elf::HEAD)], len) else { return };
    let programs = headers.programs();
    assert!(Range { start: 0, len }.contains(&programs) && programs.len <= elf::MAX_TABLE as u64);
    // What is beyond the data is zeroes.
    let mut table = vec![0; programs.len as usize];
    let have = usize::try_from(programs.start).ok().and_then(|start| data.get(start..));
    for (to, from) in table.iter_mut().zip(have.unwrap_or_default()) {
        *to = *from;
    }
    let Ok(image) = headers.image(&table) else { return };
    let ram = Range { start: 0, len: 1 << 30 };
    let fits = elf::check_fits(&image, &[ram]).is_ok();
    assert!(!image.segments.is_empty());
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
        assert!(Range { start: 0, len }.contains(&notes.file));
    }
});
