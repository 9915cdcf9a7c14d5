//! Kernels in the bzImage format (feature `bzimage`): the `vmlinux` inside is unpacked here, on the
//! host's side, and then started like any other, so that the guest never runs a decompressor.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use brisk_boot::bzimage::{Compression, parse, unpacked_size};
use brisk_boot::elf;

use crate::config::Config;
use crate::error::Result;
use crate::loader::{self, Loaded};
use crate::memory::Ram;
use crate::pieces::{Pieces, Plan};
use crate::trace::Laps;

/// No kernel is larger unpacked; a file that says so is broken.
const MAX_UNPACKED: u32 = 1 << 30;

/// Unpacks and loads the kernel in `file`, whose first bytes are `head`.
///
/// # Errors
/// The file is broken, packed in a way that is not known here, or does not fit.
pub fn load(
    config: &Config,
    file: &File,
    len: u64,
    head: &[u8],
    ram: &mut Ram,
    pieces: &Pieces,
    laps: &mut Laps,
) -> Result<Loaded> {
    let path = &config.kernel;
    let broken = |error: io::Error| loader::not_a_kernel(path, &error);
    let header = parse(head, len).map_err(|error| loader::not_a_kernel(path, &error))?;
    let mut packed = vec![0; header.payload.len as usize];
    file.read_exact_at(&mut packed, header.payload.start).map_err(broken)?;
    let size = unpacked_size(&packed).filter(|&size| size <= MAX_UNPACKED);
    let size = size.ok_or_else(|| broken(io::Error::other("unpacked size is not a kernel's")))?;
    let vmlinux = unpack(&packed, size as usize).map_err(broken)?;
    drop(packed);
    laps.lap("unpack");

    let head = &vmlinux[..vmlinux.len().min(elf::HEAD)];
    let image = elf::parse(head, vmlinux.len() as u64)
        .map_err(|error| loader::not_a_kernel(path, &error))?;
    let read = |at: u64, to: &mut [u8]| {
        let from = usize::try_from(at).ok().and_then(|at| vmlinux.get(at..)?.get(..to.len()));
        to.copy_from_slice(from.ok_or_else(|| broken(io::Error::other("truncated")))?);
        Ok(())
    };
    let loaded = loader::lay_out(config, &image, ram, read, read)?;
    laps.lap("kernel");
    let loaded = Loaded { setup_header: Some(header.setup_header), ..loaded };
    loader::finish(config, loaded, ram, Plan::default(), pieces, laps)
}

/// Unpacks to exactly `size` bytes; what the file holds beyond is not looked at.
fn unpack(packed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(size);
    let limit = size as u64;
    match Compression::of(packed) {
        Some(Compression::None) => out.extend_from_slice(packed.get(..size).unwrap_or_default()),
        Some(Compression::Gzip) => {
            flate2::bufread::GzDecoder::new(packed).take(limit).read_to_end(&mut out)?;
        }
        Some(Compression::Zstd) => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(packed);
            decoder.map_err(io::Error::other)?.take(limit).read_to_end(&mut out)?;
        }
        Some(Compression::Lz4) => unpack_lz4(packed, size, &mut out)?,
        Some(Compression::Xz) => {
            // One stream: behind it comes the size that the kernel's build appended.
            lzma_rust2::XzReader::new(packed, false).take(limit).read_to_end(&mut out)?;
        }
        _ => {
            return Err(io::Error::other(
                "packed with something else than gzip, xz, lz4 or zstd; give the vmlinux",
            ));
        }
    }
    if out.len() != size {
        return Err(io::Error::other("truncated"));
    }
    Ok(out)
}

/// The legacy frame: a magic number, then blocks of at most 8 MiB unpacked, each with its packed
/// length in front; the kernel's build appends the unpacked size, which ends the list.
fn unpack_lz4(packed: &[u8], size: usize, out: &mut Vec<u8>) -> io::Result<()> {
    const BLOCK: usize = 8 << 20;
    let mut rest = packed.get(4..).unwrap_or_default();
    while out.len() < size {
        let Some((len, after)) = rest.split_first_chunk::<4>() else { break };
        let Some((block, after)) = after.split_at_checked(u32::from_le_bytes(*len) as usize) else {
            break;
        };
        let room = BLOCK.min(size - out.len());
        out.extend(lz4_flex::block::decompress(block, room).map_err(io::Error::other)?);
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_gives_the_bytes_back() {
        let plain: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &plain).unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(
            &plain[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let block = lz4_flex::block::compress(&plain);
        let mut lz4 = vec![2, 0x21, 0x4c, 0x18];
        lz4.extend((block.len() as u32).to_le_bytes());
        lz4.extend(block);
        for mut packed in [gzip.finish().unwrap(), zstd, lz4] {
            packed.extend((plain.len() as u32).to_le_bytes());
            assert!(unpack(&packed, plain.len()).unwrap() == plain);
            assert!(unpack(&packed[..packed.len() / 2], plain.len()).is_err());
        }
        assert!(unpack(b"BZh9", 4).is_err());
    }

    /// As the kernel's build does it (`xz --check=crc32 --x86 --lzma2=dict=...`): with the filter
    /// for x86 code, and the size behind the stream.
    #[test]
    fn xz_with_the_x86_filter() {
        #[rustfmt::skip]
        const PACKED: &[u8] = &[
            0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x01,
            0x04, 0x00, 0x21, 0x01, 0x10, 0x00, 0x8b, 0x21, 0x6f, 0x49, 0xe0, 0x01, 0xc7, 0x00,
            0x8f, 0x5d, 0x00, 0x00, 0x00, 0x52, 0x50, 0x0a, 0x84, 0xf9, 0x9b, 0xb2, 0x80, 0x21,
            0xa9, 0x69, 0xd6, 0x27, 0xe0, 0x3e, 0x06, 0x5a, 0x5f, 0x04, 0x8d, 0x53, 0xd4, 0x04,
            0xba, 0x39, 0x57, 0x05, 0x09, 0xc1, 0x55, 0x24, 0xde, 0x9d, 0xb8, 0x71, 0x59, 0x31,
            0x60, 0xa1, 0x9f, 0xf9, 0x6f, 0x49, 0x73, 0xf2, 0xc8, 0xea, 0x8c, 0xba, 0x1a, 0x8b,
            0x29, 0x69, 0x21, 0x80, 0xfe, 0x33, 0x83, 0x7c, 0x34, 0x46, 0x32, 0xdb, 0xc1, 0xb1,
            0x00, 0x19, 0x6e, 0x6d, 0xbd, 0x7f, 0x82, 0xa0, 0xcd, 0xcb, 0xdf, 0xcb, 0xcb, 0x10,
            0xf3, 0x74, 0xfe, 0xeb, 0x81, 0x8f, 0xff, 0xb5, 0xa0, 0x19, 0xc0, 0x9a, 0x56, 0x5b,
            0x01, 0x07, 0x16, 0xda, 0xd1, 0xba, 0x02, 0xd3, 0xa3, 0xa4, 0x22, 0x66, 0x47, 0xda,
            0x5c, 0x7b, 0x44, 0x2d, 0xeb, 0xae, 0xc3, 0x5f, 0x3c, 0x55, 0xc2, 0x54, 0xbf, 0xaa,
            0x52, 0x11, 0xc0, 0x6d, 0x03, 0x62, 0xae, 0x7e, 0x99, 0x66, 0x38, 0xf5, 0xd9, 0x6d,
            0x1f, 0xdd, 0x35, 0x8b, 0x14, 0xe0, 0x00, 0x00, 0xe8, 0x98, 0xbf, 0xe4, 0x00, 0x01,
            0xa7, 0x01, 0xc8, 0x03, 0x00, 0x00, 0x8b, 0xa4, 0x93, 0x4b, 0x3e, 0x30, 0x0d, 0x8b,
            0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a,
        ];
        let mut plain: Vec<u8> = (0..4).flat_map(|_| 0..64).collect();
        for _ in 0..40 {
            plain.extend([0xe8, 0x10, 0, 0, 0]);
        }
        let mut packed = PACKED.to_vec();
        packed.extend((plain.len() as u32).to_le_bytes());
        assert!(unpack(&packed, plain.len()).unwrap() == plain);
        assert!(unpack(&packed[..packed.len() / 2], plain.len()).is_err());
    }
}
