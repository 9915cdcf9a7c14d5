//! The notes by which a kernel says what it is and where it may be entered.

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, `public/elfnote.h`).
const XEN_PHYS32_ENTRY: u32 = 18;

/// Notes, in the bytes of a [`NoteSegment`](super::NoteSegment): name, type and value of each, up to the first malformed
/// one.
#[derive(Clone, Copy, Debug)]
pub struct Notes<'a> {
    left: &'a [u8],
    align: usize,
}

impl<'a> Notes<'a> {
    /// `bytes` are those of a segment whose `p_align` is `align`: values and the notes after them are
    /// at multiples of 4 or, where it is 8, of 8. Another alignment is no notes' (System V ABI, "Note
    /// Section"; binutils' readelf).
    #[must_use]
    pub fn new(bytes: &'a [u8], align: u64) -> Notes<'a> {
        match align {
            0..=4 => Notes { left: bytes, align: 4 },
            8 => Notes { left: bytes, align: 8 },
            _ => Notes { left: &[], align: 4 },
        }
    }

    /// The guest-physical address of the PVH entry: the note of name "Xen" and type 18.
    ///
    /// `vmlinux` writes the address in 8 bytes, Xen's own examples in 4.
    #[must_use]
    pub fn pvh_entry(mut self) -> Option<u32> {
        let (_, _, value) =
            self.find(|(name, kind, _)| *name == b"Xen" && *kind == XEN_PHYS32_ENTRY)?;
        match *value {
            [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => Some(u32::from_le_bytes([a, b, c, d])),
            _ => None,
        }
    }

    /// Whether the notes are those of a Linux kernel, whose ELF entry is then that of the 64-bit Linux
    /// protocol: a note of name "Linux" (`include/linux/elfnote.h` and its users).
    #[must_use]
    pub fn is_linux(mut self) -> bool {
        self.any(|(name, _, _)| name == b"Linux")
    }
}

impl<'a> Iterator for Notes<'a> {
    /// The name is without the NUL at its end, which not all linkers write.
    type Item = (&'a [u8], u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const HEADER: usize = size_of::<[U32; 3]>();
        let (sizes, _) = <[U32; 3]>::read_from_prefix(self.left).ok()?;
        let [name_size, size, kind] = sizes.map(|word| word.get());
        let part = |start: usize, size: u32| {
            let end = start.checked_add(usize::try_from(size).ok()?)?;
            Some((self.left.get(start..end)?, end.checked_next_multiple_of(self.align)?))
        };
        let (name, at) = part(HEADER, name_size)?;
        let (value, end) = part(at, size)?;
        // The last one's padding may be left out.
        self.left = self.left.get(end..).unwrap_or_default();
        let name = name.strip_suffix(&[0]).unwrap_or(name);
        Some((name, kind, value))
    }
}
