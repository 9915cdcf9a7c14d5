//! The reader for bzImage kernels.
#![no_main]

use brisk_boot::bzimage::{self, Compression};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, &[u8])| {
    let (beyond, data) = input;
    let len = data.len() as u64 + u64::from(beyond);
    let _ = Compression::of(data);
    let _ = bzimage::unpacked_size(data);
    if let Ok(header) = bzimage::parse(data, len) {
        assert!(bzimage::is_bzimage(data));
        assert!(header.payload.len >= 4 && header.payload.end().is_some_and(|end| end <= len));
        assert!(header.version >= 0x20c && header.xloadflags & 1 == 1);
    }
});
