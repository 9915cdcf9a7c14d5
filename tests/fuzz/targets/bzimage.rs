//! The reader for bzImage kernels.
#![no_main]

use brisk_boot::Range;
use brisk_boot::bzimage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, &[u8])| {
    let (beyond, data) = input;
    let len = data.len() as u64 + u64::from(beyond);
    if let Ok(image) = bzimage::parse(data, len) {
        assert!(bzimage::is_bzimage(data));
        assert!(image.code.end().is_some_and(|end| end <= len));
        assert!(image.code.len <= image.memory.len);
        assert!(image.memory.contains(&Range { start: image.entry, len: 1 }));
        let _ = image.check_fits(&brisk_boot::ram(u64::from(beyond)));
    }
});
