//! The guest's memory: one host mapping, laid out below and above the 32-bit hole.

use std::io;

use brisk_boot::{Range, layout};
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

use crate::config::{MemoryConfig, PageSize};
use crate::error::{Error, Result};
use crate::events;
use crate::kvm::Vm;

/// The smallest guest: the kernel's first megabyte, its image and something to run in.
pub const MIN_SIZE: u64 = 16 << 20;
const PAGE: u64 = 4096;
/// Bytes of a huge page, and so the alignment at which the host can back the guest with them.
pub const HUGE: usize = 2 << 20;
/// A huge page that is there and not for us.
#[cfg(feature = "hugepages")]
const NO_HUGE_PAGE: &str = "--memory hugepages=on: this process's cgroup allows it too few huge pages; \
                            raise its hugetlb limits (hugetlb.*.max), or give the guest less";
/// Bytes that are touched between two looks whether a signal came.
const PREFAULT_STEP: usize = 128 << 20;

/// Guest RAM: mapped for the life of the process.
pub struct Ram {
    base: *mut u8,
    size: u64,
    guest: GuestMemoryMmap,
    /// In pages of the hugetlb pool.
    #[cfg(feature = "hugepages")]
    huge: bool,
}

// SAFETY: the pointer is to a mapping that no thread has for itself; what is written through it is
// written by who has the value alone (`&mut self`).
#[cfg(feature = "async-loader")]
unsafe impl Send for Ram {}

impl Ram {
    /// Maps memory as `config` wants it. Nothing is touched yet.
    ///
    /// # Errors
    /// A size that no guest can have or this host has not, or an empty pool of huge pages.
    pub fn map(config: &MemoryConfig) -> Result<Ram> {
        check_size(config)?;
        let base = map_host(config)?;
        let ram = Ram::at(config, base)?;
        advise(config, base, config.size as usize);
        Ok(ram)
    }

    /// Maps what a snapshot saved of it: what the guest writes stays its own.
    ///
    /// # Errors
    /// The file has another length, or cannot be mapped.
    #[cfg(feature = "snapshot")]
    pub fn of_file(config: &MemoryConfig, file: &std::fs::File) -> Result<Ram> {
        let failed = |error| Error::failed(format!("--restore: memory: {error}"));
        let len = file.metadata().map_err(failed)?.len();
        if len < config.size {
            return Err(Error::failed(format!(
                "--restore: the memory file has {len} bytes, and the guest {}; take the snapshot anew",
                config.size
            )));
        }
        let base = crate::snapshot::memory::map(file, config.size as usize).map_err(failed)?;
        keep_from_dumps(base, config.size as usize);
        Ram::at(config, base)
    }

    /// Where it begins in this process.
    #[cfg(feature = "snapshot")]
    pub fn base(&self) -> usize {
        self.base as usize
    }

    fn at(config: &MemoryConfig, base: *mut u8) -> Result<Ram> {
        let regions = regions(config.size)
            .map(|(range, offset)| region(base, range, offset))
            .collect::<Result<Vec<_>>>()?;
        let guest = GuestMemoryMmap::from_regions(regions)
            .map_err(|error| Error::failed(format!("--memory: {error}")))?;
        Ok(Ram {
            base,
            size: config.size,
            guest,
            #[cfg(feature = "hugepages")]
            huge: config.pool().is_some(),
        })
    }

    /// The same memory once more.
    ///
    /// # Safety
    /// Only one of the two may be used.
    #[cfg(feature = "async-loader")]
    pub unsafe fn again(&self) -> Ram {
        Ram { guest: self.guest.clone(), ..*self }
    }

    /// Announces the memory that [`Self::guest`] describes to KVM, from slot 0 up; answers the first
    /// free slot. Needs no [`Ram`], which may be the loader's just then.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn register(guest: &GuestMemoryMmap, vm: &Vm) -> Result<u32> {
        let mut slot = 0;
        for region in guest.iter() {
            // SAFETY: each region is a part of the mapping that `map` made, which is never undone.
            unsafe {
                let host = region.as_ptr() as u64;
                vm.set_memory(slot, region.start_addr().0, region.len(), host)
            }
            .map_err(|error| {
                Error::failed(format!(
                    "--memory size={}: {error}: this KVM has no room for {} bytes at {:#x}; give the \
                     guest less",
                    guest.iter().map(GuestMemoryRegion::len).sum::<u64>(),
                    region.len(),
                    region.start_addr().0
                ))
            })?;
            slot += 1;
        }
        Ok(slot)
    }

    /// Touches every page, on all host CPUs at once, so that the guest never waits for one.
    ///
    /// # Errors
    /// The host ran out of memory, or a signal came.
    pub fn prefault(&self) -> Result<()> {
        let (base, size) = (self.base as u64, self.size);
        let populate = move |start: u64, len: u64| {
            let end = size.min(start.saturating_add(len));
            for at in (start..end).step_by(PREFAULT_STEP) {
                if events::stopping() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let len = (end - at).min(PREFAULT_STEP as u64) as usize;
                let at = (base + at) as *mut libc::c_void;
                // SAFETY: `end <= size`, inside our own mapping; populating writes nothing.
                if unsafe { libc::madvise(at, len, libc::MADV_POPULATE_WRITE) } != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        on_all_cpus(size, populate).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => Error::stopped(),
            _ => Error::failed(format!(
                "--memory size={size},prefault=on: {error}: the host or this process's cgroup has \
                 too little memory; give the guest less"
            )),
        })
    }

    /// Takes the huge page of the first megabyte.
    #[cfg(feature = "hugepages")]
    fn claim_low(&self) -> Result<()> {
        if self.huge {
            let at = self.base.cast();
            // SAFETY: the mapping is at least MIN_SIZE long; populating writes nothing.
            let status = unsafe {
                libc::madvise(at, layout::HIGH_MEMORY as usize, libc::MADV_POPULATE_WRITE)
            };
            // A kernel before 5.14 has no such advice.
            if status != 0 && crate::error::errno() != libc::EINVAL {
                return Err(Error::failed(NO_HUGE_PAGE.into()));
            }
        }
        Ok(())
    }

    /// There is none.
    #[cfg(not(feature = "hugepages"))]
    #[inline(always)]
    fn claim_low(&self) -> Result<()> {
        Ok(())
    }

    /// The guest's first megabyte, before the guest runs.
    ///
    /// # Errors
    /// There is no huge page for it: the pool has one, and this process's cgroup may not use it. To
    /// touch it then would be a signal.
    pub fn low(&mut self) -> Result<&mut [u8]> {
        self.claim_low()?;
        // SAFETY: the mapping is at least MIN_SIZE long, ours alone (`&mut self`), and no vCPU runs
        // while boot tables are written.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.base, layout::HIGH_MEMORY as usize) })
    }

    /// `len` bytes of RAM at guest address `start`, before the guest runs; `None` where that is not
    /// all RAM in one piece.
    ///
    /// # Safety
    /// No byte may be lent twice, or be one of [`Self::low`]'s while that is in use.
    pub unsafe fn lend(&mut self, start: u64, len: u64) -> Option<&'static mut [u8]> {
        let (range, offset) =
            regions(self.size).find(|(range, _)| range.contains(&Range { start, len }))?;
        // SAFETY: the range lies within one region of our mapping, which is never undone, and the
        // caller promised that nobody else has it.
        Some(unsafe {
            std::slice::from_raw_parts_mut(
                self.base.add((offset + start - range.start) as usize),
                len as usize,
            )
        })
    }

    /// For the virtqueues.
    pub fn guest(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Does `work` on all of `0..size`: it gets where a part starts, and how long each is.
#[cfg(feature = "smp")]
fn on_all_cpus(
    size: u64,
    work: impl Fn(u64, u64) -> io::Result<()> + Copy + Send + 'static,
) -> io::Result<()> {
    let chunk = (size / crate::threads::cpus() as u64).next_multiple_of(HUGE as u64);
    let parts = (chunk..size).step_by(chunk as usize).map(|start| move || work(start, chunk));
    let names = ("memory", "--memory prefault=on");
    crate::threads::with_others(names, parts, || work(0, chunk)).into_iter().collect()
}

/// On one: a thread costs some 4 KB of musl; `smp` has them anyway.
#[cfg(not(feature = "smp"))]
fn on_all_cpus(size: u64, work: impl Fn(u64, u64) -> io::Result<()>) -> io::Result<()> {
    work(0, size)
}

/// RAM below and above the hole, and where each is in the host's mapping.
fn regions(size: u64) -> impl Iterator<Item = (Range, u64)> {
    let mut next = 0;
    brisk_boot::ram(size).into_iter().map(move |range| {
        let offset = next;
        next += range.len;
        (range, offset)
    })
}

fn region(base: *mut u8, range: Range, offset: u64) -> Result<GuestRegionMmap> {
    let broken = || Error::failed("--memory: the layout does not fit".into());
    // SAFETY: the range is inside the mapping that `map_host` made, which is never undone.
    let mapping = unsafe {
        MmapRegion::build_raw(
            base.add(offset as usize),
            range.len as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE,
        )
    };
    GuestRegionMmap::new(mapping.map_err(|_| broken())?, GuestAddress(range.start))
        .ok_or_else(broken)
}

fn check_size(config: &MemoryConfig) -> Result<()> {
    let unit = config.pool().map_or(PAGE, PageSize::bytes);
    let usage = |text| Err(Error::usage(format!("--memory size={}: {text}", config.size)));
    if config.size < MIN_SIZE {
        return usage("a guest needs 16M at least");
    }
    if !config.size.is_multiple_of(unit) {
        return usage(match config.pool() {
            Some(PageSize::Size1G) => "not a multiple of the page size; give a multiple of 1G",
            Some(PageSize::Size2M) => "not a multiple of the page size; give a multiple of 2M",
            None => "not a multiple of the page size; give a multiple of 4K",
        });
    }
    // SAFETY: asks for two numbers.
    let host = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) } as u64 * PAGE;
    if config.size > host {
        return Err(Error::failed(format!(
            "--memory size={}: this host has {host} bytes; give the guest less",
            config.size
        )));
    }
    Ok(())
}

fn map_host(config: &MemoryConfig) -> Result<*mut u8> {
    let size = config.size as usize;
    let mut flags = if config.shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let mut fd = -1;
    if config.shared {
        fd = memfd(config)?;
    } else {
        flags |= libc::MAP_ANONYMOUS;
    }
    // Huge pages are reserved here, so that an empty pool is a message and not a guest killed later.
    match config.pool() {
        Some(PageSize::Size2M) => flags |= libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
        Some(PageSize::Size1G) => flags |= libc::MAP_HUGETLB | libc::MAP_HUGE_1GB,
        None => flags |= libc::MAP_NORESERVE,
    }
    let map = |at: *mut libc::c_void, len: usize, flags, fd| {
        // SAFETY: `at` is null, or inside a reservation that this function made and owns.
        let address =
            unsafe { libc::mmap(at, len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address) }
    };
    if config.pool().is_some() {
        return match map(std::ptr::null_mut(), size, flags, fd) {
            Ok(address) => Ok(address.cast()),
            Err(error) => Err(hugepage_error(config, &error)),
        };
    }
    let failed = |error| map_error(config, &error);
    if !config.shared {
        // More address space than needed, of which the aligned part is used: free, where trimming
        // would be two more calls.
        let address = map(std::ptr::null_mut(), size + HUGE, flags, fd).map_err(failed)?;
        return Ok((address as usize).next_multiple_of(HUGE) as *mut u8);
    }
    let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let address = map(std::ptr::null_mut(), size + HUGE, reserve, -1).map_err(failed)?;
    let aligned = (address as usize).next_multiple_of(HUGE) as *mut libc::c_void;
    Ok(map(aligned, size, flags | libc::MAP_FIXED, fd).map_err(failed)?.cast())
}

fn memfd(config: &MemoryConfig) -> Result<libc::c_int> {
    let flags = libc::MFD_CLOEXEC
        | match config.pool() {
            Some(PageSize::Size2M) => libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
            Some(PageSize::Size1G) => libc::MFD_HUGETLB | libc::MFD_HUGE_1GB,
            None => 0,
        };
    // SAFETY: a constant, terminated name.
    let fd = unsafe { libc::memfd_create(c"brisk-ram".as_ptr(), flags) };
    // SAFETY: sets the size of the file that was just made.
    if fd < 0 || unsafe { libc::ftruncate(fd, config.size as libc::off_t) } != 0 {
        let error = io::Error::last_os_error();
        return Err(Error::failed(format!(
            "--memory size={},shared=on: {error}; leave shared=on away, or give the guest less",
            config.size
        )));
    }
    Ok(fd)
}

/// Bytes of address space that this process may have, where that is limited.
fn address_space_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: 0 };
    // SAFETY: fills the structure it is given.
    unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) };
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Memory that cannot be mapped, by what most likely keeps it from that.
fn map_error(config: &MemoryConfig, error: &io::Error) -> Error {
    let why = why_not_mapped();
    Error::failed(format!("--memory size={}: {error}: {why}, or give the guest less", config.size))
}

/// What most likely keeps this process from mapping so much, and what mends it.
pub fn why_not_mapped() -> String {
    match address_space_limit() {
        Some(limit) => {
            format!("this process may have {limit} bytes of address space; raise that (ulimit -v)")
        }
        None => "the host does not allow so much; allow it (sysctl vm.overcommit_memory)".into(),
    }
}

/// An empty pool in the numbers that remedy it. Read only now, when it failed: the reservation itself
/// was the check.
fn hugepage_error(config: &MemoryConfig, error: &io::Error) -> Error {
    let (name, size) = match config.pool() {
        Some(PageSize::Size1G) => ("1 GiB", PageSize::Size1G),
        _ => ("2 MiB", PageSize::Size2M),
    };
    let pool = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", size.bytes() >> 10);
    let read = |file: &str| -> Option<u64> {
        std::fs::read_to_string(format!("{pool}/{file}")).ok()?.trim().parse().ok()
    };
    let needed = config.size / size.bytes();
    let Some(free) = read("free_hugepages") else {
        return Error::failed(format!(
            "--memory hugepages=on: this host has no {name} pages ({pool}: not there)"
        ));
    };
    // Pages that others have reserved and not yet touched are not free for us.
    let free = free.saturating_sub(read("resv_hugepages").unwrap_or(0));
    if free >= needed {
        if address_space_limit().is_some() {
            return map_error(config, error);
        }
        return Error::failed(format!(
            "--memory size={},hugepages=on: {error}: {needed} {name} pages needed, {free} free, and \
             this process's cgroup allows it fewer; raise its hugetlb limits (hugetlb.*.rsvd.max, \
             hugetlb.*.max), or give the guest less",
            config.size
        ));
    }
    let total = read("nr_hugepages").unwrap_or(0) + needed - free;
    Error::failed(match size {
        PageSize::Size2M => format!(
            "--memory hugepages=on: {needed} free {name} pages needed, {free} free; try: \
             sysctl vm.nr_hugepages={total}"
        ),
        PageSize::Size1G => format!(
            "--memory hugepages=on: {needed} free {name} pages needed, {free} free; try: \
             echo {total} > {pool}/nr_hugepages"
        ),
    })
}

/// What the guest has in memory is not for a core dump: `size` bytes at `base`, a mapping of ours.
pub fn keep_from_dumps(base: *mut u8, size: usize) {
    // SAFETY: advice changes no content, wherever it is.
    unsafe { libc::madvise(base.cast(), size, libc::MADV_DONTDUMP) };
}

/// Transparent huge pages are said before the first touch, which is when the kernel decides.
fn advise(config: &MemoryConfig, base: *mut u8, size: usize) {
    // SAFETY: the range is our own mapping; advice changes no content.
    let advise = |advice| unsafe { libc::madvise(base.cast(), size, advice) };
    keep_from_dumps(base, size);
    let advice = match config.thp {
        Some(true) => libc::MADV_HUGEPAGE,
        Some(false) => libc::MADV_NOHUGEPAGE,
        None => return,
    };
    if advise(advice) != 0 {
        // A host without transparent huge pages: slower, and no less right.
        log::info!("--memory thp: {}; goes on without", io::Error::last_os_error());
    }
}
