//! Guest memory as a sparse file: written once, mapped by each clone.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::error::errno;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// `/proc/self/pagemap`: the page is in memory, or was and is in swap (admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63 | 1 << 62;
/// It is the file's own, not a private copy.
const OF_FILE: u64 = 1 << 61;
/// Pages that are looked at together: their entries are one page too.
const CHUNK: usize = 512;

/// Which pages of this process are in memory.
pub struct PageMap(File);

impl PageMap {
    /// Opens it; once, as a sandbox may keep it from being opened later.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn open() -> io::Result<PageMap> {
        File::open("/proc/self/pagemap").map(PageMap)
    }

    /// Calls `each` with the address and the entry of each page of `start..start + len`.
    ///
    /// # Errors
    /// The kernel's, or `each`'s.
    pub fn walk(
        &self,
        start: usize,
        len: usize,
        mut each: impl FnMut(usize, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut entries = [0; CHUNK * 8];
        for chunk in (start..start + len).step_by(CHUNK * PAGE) {
            let pages = CHUNK.min((start + len - chunk).div_ceil(PAGE));
            let entries = &mut entries[..pages * 8];
            self.0.read_exact_at(entries, (chunk / PAGE * 8) as u64)?;
            for (page, entry) in entries.chunks_exact(8).enumerate() {
                let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
                each(chunk + page * PAGE, entry)?;
            }
        }
        Ok(())
    }
}

/// Whether the process has the page in memory, whosever it is.
pub fn present(entry: u64) -> bool {
    entry & PRESENT != 0
}

/// Whether it is a private copy, or of no file at all.
pub fn private(entry: u64) -> bool {
    present(entry) && entry & OF_FILE == 0
}

/// Where pages are written: runs of them together, those of nothing but zeroes left out.
pub struct Sink<'a> {
    file: &'a File,
    /// Begins in memory, its length, and its place in the file.
    run: (usize, usize, u64),
}

impl<'a> Sink<'a> {
    /// Writes to `file`, which is as long as it has to be and has only holes.
    pub fn new(file: &'a File) -> Sink<'a> {
        Sink { file, run: (0, 0, 0) }
    }

    /// Writes the page at `address` to `offset`.
    ///
    /// # Safety
    /// A page of this process's memory that nobody writes to.
    ///
    /// # Errors
    /// No room, for instance.
    pub unsafe fn page(&mut self, address: usize, offset: u64) -> io::Result<()> {
        // SAFETY: the caller's.
        let words = unsafe { std::slice::from_raw_parts(address as *const u64, PAGE / 8) };
        if words.iter().all(|&word| word == 0) {
            return Ok(());
        }
        let (start, len, at) = self.run;
        if len > 0 && address == start + len && offset == at + len as u64 {
            self.run.1 += PAGE;
            return Ok(());
        }
        self.flush()?;
        self.run = (address, PAGE, offset);
        Ok(())
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// No room, for instance.
    pub fn flush(&mut self) -> io::Result<()> {
        let (start, len, offset) = std::mem::take(&mut self.run);
        if len == 0 {
            return Ok(());
        }
        // SAFETY: pages that `page` was promised are there.
        let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, len) };
        put(self.file, bytes, offset)
    }
}

/// Where `file` has data; all of it where its file system does not tell.
pub fn data(file: &File) -> Vec<std::ops::Range<u64>> {
    let fd = file.as_raw_fd();
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        // SAFETY: plain numbers; the position is nobody's.
        let (start, end) = unsafe {
            let start = libc::lseek(fd, at, libc::SEEK_DATA);
            (start, if start < 0 { start } else { libc::lseek(fd, start, libc::SEEK_HOLE) })
        };
        match (start, end) {
            (0.., 0..) => found.push(start as u64..end as u64),
            _ if errno() == libc::ENXIO => return found,
            _ => return std::iter::once(0..u64::MAX).collect(),
        }
        at = end;
    }
}

/// Writes `bytes` at `offset`, on a hugetlbfs, which has no write, through a mapping.
///
/// # Errors
/// No room, for instance.
pub fn put(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    match file.write_all_at(bytes, offset) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => put_mapped(file, bytes, offset),
        result => result,
    }
}

fn put_mapped(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let huge = crate::memory::HUGE;
    let from = offset as usize / huge * huge;
    let len = (offset as usize + bytes.len()).next_multiple_of(huge) - from;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // Populated at once: an empty pool is an error here and not a signal later.
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // SAFETY: a mapping of its own, written to within its length and undone.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            len,
            protection,
            flags,
            file.as_raw_fd(),
            from as libc::off_t,
        );
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let to = at.cast::<u8>().add(offset as usize - from);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        libc::munmap(at, len);
    }
    Ok(())
}

/// Maps the first `len` bytes of `file` as guest memory of its own: what it writes stays here. At a
/// multiple of 2 MiB, so that huge pages of the file are huge pages of the guest's.
///
/// # Errors
/// The kernel's.
pub fn map(file: &File, len: usize) -> io::Result<*mut u8> {
    let huge = crate::memory::HUGE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let nothing = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let call = |at: usize, len: usize, flags, fd| {
        // SAFETY: anywhere, or within the reservation that was made just before.
        let at = unsafe { libc::mmap(at as *mut libc::c_void, len, protection, flags, fd, 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at as usize) }
    };
    let start = call(0, len + huge, nothing, -1)?.next_multiple_of(huge);
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
    Ok(call(start, len, flags, file.as_raw_fd())? as *mut u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_with_its_holes() {
        let file = tempfile::tempfile().unwrap();
        let len = 64 * PAGE;
        file.set_len(len as u64).unwrap();
        // SAFETY: private memory of this test's, as long as said.
        let memory = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0);
            std::slice::from_raw_parts_mut(at.cast::<u8>(), len)
        };
        memory[3 * PAGE] = 1;
        memory[4 * PAGE + 7] = 2;
        memory[9 * PAGE] = 0; // touched, and nothing in it
        memory[20 * PAGE..22 * PAGE].fill(3);
        let start = memory.as_ptr() as usize;
        let mut sink = Sink::new(&file);
        let mut seen = 0;
        let map_of_pages = PageMap::open().unwrap();
        map_of_pages
            .walk(start, len, |address, entry| {
                if !private(entry) {
                    return Ok(());
                }
                seen += 1;
                // SAFETY: a page of `memory`.
                unsafe { sink.page(address, (address - start) as u64) }
            })
            .unwrap();
        sink.flush().unwrap();
        assert!((4..64).contains(&seen), "{seen}");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        assert!(blocks < 64 * 8, "not sparse: {blocks}");
        let again = map(&file, len).unwrap();
        assert!((again as usize).is_multiple_of(crate::memory::HUGE));
        // SAFETY: mapped just before, `len` bytes.
        let again = unsafe { std::slice::from_raw_parts_mut(again, len) };
        assert_eq!(again, memory);
        // A clone's own memory.
        again[0] = 9;
        let mut byte = [1];
        file.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [0]);
    }
}
