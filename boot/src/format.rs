//! Files that are often given as a kernel or a raw disk and are neither, known by their first bytes.

use core::fmt;

/// Bytes from the start of the file that [`recognise`] looks at.
pub const HEAD: usize = 0x44;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Something packed.
    Packed {
        /// By which program.
        by: &'static str,
        /// The program that writes what is in it to its standard output.
        unpack: &'static str,
    },
    /// A disk image in a format that is not raw: its name as qemu-img has it.
    Disk(&'static str),
    /// Firmware in UEFI's format (PI specification 1.8, volume 3, 3.2.1).
    Firmware,
    /// A program for EFI, such as a unified kernel image or a boot loader.
    EfiProgram,
}

const fn packed(by: &'static str, unpack: &'static str) -> Format {
    Format::Packed { by, unpack }
}

/// Offset, bytes and what they mean. Linux packs its own kernels by the first five; lz4 has a second
/// format, which is the one that Linux uses.
const MAGIC: [(usize, &[u8], Format); 14] = [
    (0, b"\x1f\x8b", packed("gzip", "zcat")),
    (0, b"\xfd7zXZ\0", packed("xz", "xzcat")),
    (0, b"\x28\xb5\x2f\xfd", packed("zstd", "zstdcat")),
    (0, b"\x02\x21\x4c\x18", packed("lz4", "lz4cat")),
    (0, b"\x04\x22\x4d\x18", packed("lz4", "lz4cat")),
    (0, b"BZh", packed("bzip2", "bzcat")),
    (0, b"\x5d\0\0", packed("lzma", "xzcat")),
    (0, b"QFI\xfb", Format::Disk("qcow2")),
    (0, b"vhdxfile", Format::Disk("vhdx")),
    (0, b"conectix", Format::Disk("vpc")),
    (0, b"KDMV", Format::Disk("vmdk")),
    (0x40, b"\x7f\x10\xda\xbe", Format::Disk("vdi")),
    (0x28, b"_FVH", Format::Firmware),
    (0, b"MZ", Format::EfiProgram),
];

/// What a file that begins so is, where it is one of those. A bzImage may be an EFI program too, so
/// look for that first.
#[must_use]
pub fn recognise(head: &[u8]) -> Option<Format> {
    let is = |(offset, magic, _): &&(usize, &[u8], Format)| {
        head.get(*offset..).is_some_and(|rest| rest.starts_with(magic))
    };
    MAGIC.iter().find(is).map(|(_, _, format)| *format)
}

/// What it is and, where it can be made into a kernel, how.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::Packed { by, unpack } => {
                write!(f, "is packed by {by}; unpack it first: {unpack} FILE > vmlinux")
            }
            Format::Disk(name) => write!(f, "is a disk image ({name}), not a kernel"),
            Format::Firmware => f.write_str(
                "is firmware, which nothing here needs or runs; give a vmlinux or a bzImage",
            ),
            Format::EfiProgram => {
                f.write_str("is a program for EFI; give the vmlinux or bzImage that it starts")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec;

    #[test]
    fn each_is_known_wherever_its_bytes_are() {
        for (offset, magic, format) in MAGIC {
            let mut head = vec![0; HEAD];
            head[offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(recognise(&head), Some(format));
            head[offset] ^= 0xff;
            assert_eq!(recognise(&head), None, "{format:?}");
            assert_eq!(recognise(&head[..offset + 1]), None, "{format:?}");
        }
        assert_eq!(recognise(b""), None);
        assert_eq!(recognise(b"\x7fELF"), None);
    }

    #[test]
    fn says_what_to_do() {
        let text = |head: &[u8]| recognise(head).unwrap().to_string();
        assert_eq!(
            text(b"\x28\xb5\x2f\xfd\0\0"),
            "is packed by zstd; unpack it first: zstdcat FILE > vmlinux"
        );
        assert_eq!(text(b"QFI\xfb\0\0\0\x03"), "is a disk image (qcow2), not a kernel");
    }
}
