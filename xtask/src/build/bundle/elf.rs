//! A kernel's ELF file without its padding: only what is loaded, and of that only what is not zero.

use anyhow::{Context, Result, ensure};

const HEADER: usize = 64;
const ENTRY: usize = 56;
/// Runs of zeros from this length on are left out: memory is zero anyway.
const PAGE: usize = 4096;
/// Segments that brisk has room for (`brisk_boot::elf::MAX_SEGMENTS`).
const MAX_SEGMENTS: usize = 16;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// A program header.
#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    file_size: u64,
    mem_size: u64,
}

/// The same kernel in fewer bytes.
///
/// # Errors
/// `kernel` is no ELF file of 64 bits.
pub fn pack(kernel: &[u8]) -> Result<Vec<u8>> {
    ensure!(kernel.starts_with(b"\x7fELF\x02\x01"), "the kernel is no ELF file: give its vmlinux");
    let at = number(kernel, 32, 8)? as usize;
    let (size, count) = (number(kernel, 54, 2)? as usize, number(kernel, 56, 2)? as usize);
    ensure!(size == ENTRY, "program headers of {size} bytes");
    let mut segments = Vec::new();
    for index in 0..count {
        let field = |field: usize, length| number(kernel, at + index * ENTRY + field, length);
        segments.push(Segment {
            kind: field(0, 4)? as u32,
            flags: field(4, 4)? as u32,
            offset: field(8, 8)?,
            vaddr: field(16, 8)?,
            paddr: field(24, 8)?,
            file_size: field(32, 8)?,
            mem_size: field(40, 8)?,
        });
    }
    segments.retain(|segment| [PT_LOAD, PT_NOTE].contains(&segment.kind));
    let notes = segments.iter().filter(|segment| segment.kind == PT_NOTE).count();
    let loaded = segments.len() - notes;
    // The longest runs of zeros first, as far as there is room for segments.
    let mut gaps = Vec::new();
    for (index, segment) in segments.iter().enumerate().filter(|(_, s)| s.kind == PT_LOAD) {
        let bytes = content(kernel, segment)?;
        gaps.extend(zeros(bytes).into_iter().map(|(from, to)| (to - from, index, from, to)));
    }
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    gaps.truncate(MAX_SEGMENTS - loaded);
    let mut packed = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let mut cuts: Vec<(usize, usize)> =
            gaps.iter().filter(|gap| gap.1 == index).map(|gap| (gap.2, gap.3)).collect();
        cuts.sort_unstable();
        cuts.push((segment.file_size as usize, segment.mem_size as usize));
        let mut start = 0;
        for (end, next) in cuts {
            if next > start {
                let skip = start as u64;
                packed.push(Segment {
                    offset: segment.offset + skip,
                    vaddr: segment.vaddr + skip,
                    paddr: segment.paddr + skip,
                    file_size: (end - start) as u64,
                    mem_size: (next - start) as u64,
                    ..*segment
                });
            }
            start = next;
        }
    }
    write(kernel, &packed)
}

/// Runs of whole pages of zeros, and what follows them to the end of `bytes` where that is zero too.
fn zeros(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        let (from, to) = (index * PAGE, index * PAGE + page.len());
        if page.iter().any(|byte| *byte != 0) {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => found.push((from, to)),
        }
    }
    found
}

/// A file of `segments`, whose offsets are still those in `kernel`.
fn write(kernel: &[u8], segments: &[Segment]) -> Result<Vec<u8>> {
    let mut out = kernel.get(..HEADER).context("short")?.to_vec();
    let mut put = |at: usize, value: u64, length: usize| {
        out[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
    };
    put(32, HEADER as u64, 8); // e_phoff
    put(40, 0, 8); // e_shoff
    put(56, segments.len() as u64, 2); // e_phnum
    put(60, 0, 4); // e_shnum, e_shstrndx
    let mut at = (HEADER + ENTRY * segments.len()).next_multiple_of(16);
    let mut body = Vec::new();
    for segment in segments {
        for (value, length) in [
            (segment.kind.into(), 4),
            (segment.flags.into(), 4),
            (at as u64, 8),
            (segment.vaddr, 8),
            (segment.paddr, 8),
            (segment.file_size, 8),
            (segment.mem_size, 8),
            (0, 8), // p_align: none
        ] {
            out.extend_from_slice(&u64::to_le_bytes(value)[..length]);
        }
        let bytes = content(kernel, segment)?;
        body.extend_from_slice(bytes);
        body.resize(body.len().next_multiple_of(16), 0);
        at += bytes.len().next_multiple_of(16);
    }
    out.resize(out.len().next_multiple_of(16), 0);
    out.extend(body);
    Ok(out)
}

fn content<'a>(kernel: &'a [u8], segment: &Segment) -> Result<&'a [u8]> {
    let end = segment.offset.checked_add(segment.file_size).context("a segment's size")?;
    kernel.get(segment.offset as usize..end as usize).context("a segment past the kernel's end")
}

fn number(bytes: &[u8], at: usize, length: usize) -> Result<u64> {
    let mut value = [0; 8];
    value[..length].copy_from_slice(bytes.get(at..at + length).context("the kernel is cut off")?);
    Ok(u64::from_le_bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in memory of `file`, from address 0 on.
    fn loaded(file: &[u8]) -> Vec<u8> {
        let mut memory = vec![0; 1 << 20];
        let (at, count) = (number(file, 32, 8).unwrap(), number(file, 56, 2).unwrap());
        for index in 0..count as usize {
            let field = |f, l| number(file, at as usize + index * ENTRY + f, l).unwrap() as usize;
            if field(0, 4) == PT_LOAD as usize {
                let (from, to, len) = (field(8, 8), field(24, 8), field(32, 8));
                assert!(field(40, 8) >= len);
                memory[to..to + len].copy_from_slice(&file[from..from + len]);
            }
        }
        memory
    }

    #[test]
    fn the_same_in_memory() {
        let mut data = vec![0; 300 << 10];
        for at in [0, 5000, 100_000, 100_001, 250_000] {
            data[at] = 7;
        }
        let segment = |kind, offset, paddr, file_size| Segment {
            kind,
            flags: 7,
            offset,
            vaddr: paddr + (1 << 40),
            paddr,
            file_size,
            mem_size: file_size + 5,
        };
        let mut whole = vec![0; HEADER];
        whole[..6].copy_from_slice(b"\x7fELF\x02\x01");
        whole[54] = ENTRY as u8;
        let mut source = whole.clone();
        source.resize(1 << 19, 9);
        source[8192..8192 + data.len()].copy_from_slice(&data);
        let segments =
            [segment(PT_LOAD, 8192, 4096, data.len() as u64), segment(PT_NOTE, 8192 + 5000, 0, 16)];
        let file = write(&source, &segments).unwrap();
        let packed = pack(&file).unwrap();
        assert!(loaded(&packed) == loaded(&file));
        assert!(packed.len() < 20_000, "{}", packed.len());
        assert_eq!(pack(&packed).unwrap().len(), packed.len());
        assert!(pack(b"MZ").is_err());
    }
}
