//! Whether there is room for what is going to be made: a full disk is one line at the start, rather than
//! a test that fails in the middle.

use anyhow::{Result, ensure};
use std::env;
use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::cache::Cache;
use crate::guest::kernel;
use crate::paths;

const MIB: u64 = 1 << 20;
/// What `cargo xtask test` makes in the target directory, as `.ci/run` has it; half as much again where cargo
/// keeps what the next build may need.
const TARGET: u64 = 4 << 30;
/// A kernel's source and objects, and what the cache keeps.
const CACHE: u64 = 4 << 30;
/// Images that tests make, and what else is gone at their ends; also what is left where all is there.
const SCRATCH: u64 = 512 * MIB;

/// Bytes that are needed in a directory.
struct Need {
    dir: PathBuf,
    bytes: u64,
}

/// There is room for what `cargo xtask setup` makes.
///
/// # Errors
/// There is not.
pub fn for_setup(cache: &Cache) -> Result<()> {
    enough(&[in_cache(cache)])
}

/// There is room for what `cargo xtask test` makes, too.
///
/// # Errors
/// There is not.
pub fn for_tests(cache: &Cache) -> Result<()> {
    let target = paths::target()?;
    let bytes = TARGET.saturating_sub(size(&target)).max(SCRATCH);
    enough(&[
        in_cache(cache),
        Need { dir: target, bytes },
        Need { dir: env::temp_dir(), bytes: SCRATCH },
    ])
}

/// On a machine where nothing is installed yet nobody can say whether kernels are built: they are not.
fn in_cache(cache: &Cache) -> Need {
    let built = |(_, config): &(_, _)| kernel::is_built(cache, *config).is_ok_and(|built| built);
    let bytes = if kernel::Config::ALL.iter().all(built) { SCRATCH } else { CACHE };
    Need { dir: cache.root().to_owned(), bytes }
}

/// Each file system has room for all that is needed in it.
fn enough(needs: &[Need]) -> Result<()> {
    let places: Vec<PathBuf> = needs.iter().map(|need| there(&need.dir)).collect();
    let system = |place: &Path| fs::metadata(place).map(|meta| meta.dev());
    for place in &places {
        let mut needed = 0;
        for (need, other) in needs.iter().zip(&places) {
            needed += if system(other)? == system(place)? { need.bytes } else { 0 };
        }
        let free = free(place)?;
        ensure!(
            free >= needed,
            "{}: {} MiB are free, and {} are needed; make room (cargo clean), or set CARGO_TARGET_DIR, \
             BRISK_CACHE or TMPDIR to a directory elsewhere",
            place.display(),
            free / MIB,
            needed / MIB
        );
    }
    Ok(())
}

/// The directory, or the first one above it that there is.
fn there(dir: &Path) -> PathBuf {
    dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// Bytes that this user may still write.
fn free(dir: &Path) -> Result<u64> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: a path that ends, and a structure for the call to fill, of numbers only.
    let (status, stat) =
        unsafe { (libc::statvfs(path.as_ptr(), stat.as_mut_ptr()), stat.assume_init()) };
    ensure!(status == 0, "{}: {}", dir.display(), std::io::Error::last_os_error());
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Bytes on the disk of all that is below `dir`; what goes away meanwhile is nothing.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_in_one_file_system_is_needed_together() {
        let dir = tempfile::tempdir().unwrap();
        let not_yet = dir.path().join("not/yet");
        let free = free(dir.path()).unwrap();
        let need = |dir: &Path, bytes| Need { dir: dir.to_owned(), bytes };
        enough(&[need(dir.path(), 1), need(&not_yet, 1)]).unwrap();
        // Others write here too, but not half of what is left.
        let most = free / 4 * 3;
        enough(&[need(&not_yet, free / 4)]).unwrap();
        let error = enough(&[need(dir.path(), most), need(&not_yet, most)]).unwrap_err();
        let needed = format!(" MiB are free, and {} are needed", most * 2 / MIB);
        assert!(error.to_string().contains(&needed), "{error}");
    }

    #[test]
    fn a_directory_has_the_size_of_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let within = dir.path().join("within");
        fs::create_dir(&within).unwrap();
        fs::write(within.join("file"), vec![1; 100_000]).unwrap();
        assert!((100_000..300_000).contains(&size(dir.path())), "{}", size(dir.path()));
        assert_eq!(size(&dir.path().join("none")), 0);
    }
}
