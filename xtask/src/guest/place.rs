//! `cargo xtask place`: a kernel on a hugetlbfs, where brisk maps it instead of reading it.
//!
//! What is written is an ELF file like any other. Its one segment is the kernel's memory as it is
//! before the first instruction, from a multiple of 2 MiB on and at a multiple of 2 MiB in the file, so
//! that each page of the file can be a page of the guest's memory. (A `vmlinux` as it is built has its
//! text so, but not its data.)

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian as LE, U16, U32, U64, pod};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Put a kernel on a hugetlbfs, so that brisk maps it instead of reading it (with --memory
/// hugepages=on).
#[derive(FromArgs)]
#[argh(subcommand, name = "place")]
pub struct Args {
    /// a vmlinux
    #[argh(positional)]
    kernel: PathBuf,
    /// the file to make, on a hugetlbfs of 2 MiB pages (as /dev/hugepages often is)
    #[argh(positional)]
    to: PathBuf,
}

/// Bytes of a page, of the file's and of the guest's memory.
const PAGE: u64 = 2 << 20;
/// More is not the memory of a kernel: segments that lie apart.
const MAX: u64 = 256 << 20;

/// Runs the task.
///
/// # Errors
/// The kernel is none, or the file cannot be made.
pub fn run(args: &Args) -> Result<ExitCode> {
    let kernel = fs::read(&args.kernel).with_context(|| args.kernel.display().to_string())?;
    let image = lay_out(&kernel).with_context(|| args.kernel.display().to_string())?;
    write(&image, &args.to).with_context(|| args.to.display().to_string())?;
    let pages = image.len() as u64 / PAGE;
    println!("{}: {pages} pages of 2 MiB", args.to.display());
    Ok(ExitCode::SUCCESS)
}

/// The same kernel with one segment, all of it at multiples of [`PAGE`].
fn lay_out(kernel: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<LE>::parse(kernel).context("not a 64-bit ELF file")?;
    let programs = header.program_headers(LE, kernel)?;
    let of_kind = |kind| programs.iter().filter(move |p| p.p_type(LE) == kind);
    let base = of_kind(elf::PT_LOAD).map(|p| p.p_paddr(LE)).min().context("nothing to load")?;
    let base = base - base % PAGE;
    let end = |size: fn(&ProgramHeader64<LE>) -> u64| -> Result<u64> {
        let ends = of_kind(elf::PT_LOAD).map(|p| p.p_paddr(LE).checked_add(size(p)));
        let end = ends.max().flatten().context("segments past the end of memory")?;
        ensure!(end - base <= MAX, "segments that are {} bytes apart", end - base);
        Ok(end - base)
    };
    let file_size = end(|p| p.p_filesz(LE))?.next_multiple_of(PAGE);
    let mem_size = end(|p| p.p_memsz(LE))?.max(file_size);

    let mut notes = Vec::new();
    for program in of_kind(elf::PT_NOTE) {
        notes
            .extend_from_slice(program.data(LE, kernel).ok().context("notes past the file's end")?);
    }
    let heads = size_of::<FileHeader64<LE>>() + 2 * size_of::<ProgramHeader64<LE>>();
    ensure!(heads + notes.len() <= PAGE as usize, "{} bytes of notes", notes.len());
    let program = |kind, flags, offset, paddr, file_size, mem_size, align| ProgramHeader64::<LE> {
        p_type: U32::new(LE, kind),
        p_flags: U32::new(LE, flags),
        p_offset: U64::new(LE, offset),
        p_vaddr: U64::new(LE, paddr),
        p_paddr: U64::new(LE, paddr),
        p_filesz: U64::new(LE, file_size),
        p_memsz: U64::new(LE, mem_size),
        p_align: U64::new(LE, align),
    };
    let size = notes.len() as u64;
    let rwx = elf::PF_R | elf::PF_W | elf::PF_X;
    let new = [
        program(elf::PT_LOAD, rwx, PAGE, base, file_size, mem_size, PAGE),
        program(elf::PT_NOTE, elf::PF_R, heads as u64, 0, size, size, 4),
    ];
    let mut first = *header;
    first.e_phoff = U64::new(LE, size_of::<FileHeader64<LE>>() as u64);
    first.e_phnum = U16::new(LE, new.len() as u16);
    (first.e_shoff, first.e_shnum, first.e_shstrndx) = Default::default();

    let mut image = [pod::bytes_of(&first), pod::bytes_of_slice(&new), &notes].concat();
    image.resize((PAGE + file_size) as usize, 0);
    for program in of_kind(elf::PT_LOAD) {
        let from = program.data(LE, kernel).ok().context("a segment past the file's end")?;
        let at = (PAGE + program.p_paddr(LE) - base) as usize;
        image[at..at + from.len()].copy_from_slice(from);
    }
    Ok(image)
}

/// Makes the file whole before it has its name: a VM that maps it never sees it change.
fn write(image: &[u8], to: &Path) -> Result<()> {
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let block = fs::metadata(dir).with_context(|| dir.display().to_string())?.blksize();
    ensure!(
        block == PAGE,
        "not on a hugetlbfs of 2 MiB pages; try: mount -t hugetlbfs -o pagesize=2M none DIRECTORY"
    );
    let name = to.file_name().context("is a directory; give a file")?;
    let new = dir.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let result = fill(image, &new).and_then(|()| Ok(fs::rename(&new, to)?));
    if result.is_err() {
        let _ = fs::remove_file(&new);
    }
    result
}

/// A hugetlbfs has no write(2): its files are filled by a mapping.
fn fill(image: &[u8], new: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(new)?;
    file.set_len(image.len() as u64)?;
    // SAFETY: the file is ours alone, under a name that nobody knows.
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.with_context(|| {
        format!(
            "{} free 2 MiB pages needed; try: sysctl vm.nr_hugepages=N",
            image.len() as u64 / PAGE
        )
    })?;
    map.copy_from_slice(image);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_segment_with_all_of_it() {
        let kernel = fs::read(std::env::current_exe().unwrap()).unwrap();
        let header = FileHeader64::<LE>::parse(&*kernel).unwrap();
        let image = lay_out(&kernel).unwrap();
        let found = FileHeader64::<LE>::parse(&*image).unwrap();
        assert_eq!(found.e_entry(LE), header.e_entry(LE));
        let [load, note] = found.program_headers(LE, &*image).unwrap() else { panic!() };
        assert_eq!((load.p_offset(LE), load.p_paddr(LE) % PAGE), (PAGE, 0));
        assert_eq!(load.p_filesz(LE) % PAGE, 0);
        assert_eq!(image.len() as u64, PAGE + load.p_filesz(LE));
        let whole = load.data(LE, &*image).unwrap();
        let mut notes = Vec::new();
        for old in header.program_headers(LE, &*kernel).unwrap() {
            let data = old.data(LE, &*kernel).unwrap();
            match old.p_type(LE) {
                elf::PT_LOAD => {
                    let at = (old.p_paddr(LE) - load.p_paddr(LE)) as usize;
                    assert!(whole[at..at + data.len()] == *data);
                    let end = old.p_paddr(LE) + old.p_memsz(LE);
                    assert!(end <= load.p_paddr(LE) + load.p_memsz(LE));
                }
                elf::PT_NOTE => notes.extend_from_slice(data),
                _ => {}
            }
        }
        assert!(!notes.is_empty() && note.data(LE, &*image).unwrap() == notes);
    }

    #[test]
    fn only_a_kernel_and_only_on_a_hugetlbfs() {
        assert!(lay_out(b"#!/bin/sh").is_err());
        let dir = tempfile::tempdir().unwrap();
        let error = write(&[0; 1], &dir.path().join("k")).unwrap_err().to_string();
        assert!(error.contains("mount -t hugetlbfs"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
