//! The executable: brisk, and what it boots behind it.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::Parts;

/// What marks the index in brisk's program (`src/bundle.rs`).
const MAGIC: &[u8; 16] = b"brisk bundle 1\r\n";
const PAGE: u64 = 4096;
const HUGE: u64 = 2 << 20;
/// Images from this length on start at a multiple of 2 MiB of the file, so that its pages can be mapped
/// in that size where it is on a file system that has such.
const LARGE: u64 = 32 << 20;
/// Writes the executable; the same parts give the same bytes.
///
/// # Errors
/// It cannot be written.
pub fn write(parts: &Parts, out: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let cannot = || format!("--out {}: cannot write", out.display());
    let directory = out.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(directory.unwrap_or(Path::new(".")))
        .with_context(cannot)?;
    let index = fill(parts, file.as_file_mut()).with_context(cannot)?;
    let mut brisk = parts.brisk.clone();
    let mut found = (0..brisk.len().saturating_sub(MAGIC.len()))
        .filter(|at| brisk.get(*at..at + MAGIC.len()).is_some_and(|bytes| bytes == MAGIC));
    let at = found.next().context("the program has no index of a bundle")?;
    ensure!(found.next().is_none(), "the program has two indices of a bundle");
    let from = at + MAGIC.len();
    let to = brisk.get_mut(from..from + index.len() * 8).context("a cut off index")?;
    for (to, value) in to.chunks_exact_mut(8).zip(&index) {
        to.copy_from_slice(&value.to_le_bytes());
    }
    let target = file.as_file_mut();
    target.seek(SeekFrom::Start(0))?;
    target.write_all(&brisk).with_context(cannot)?;
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o755)).with_context(cannot)?;
    // A running program cannot be written to, but replaced.
    file.persist(out).with_context(cannot)?;
    Ok(())
}

/// Writes all but brisk itself; the index: start and length of flags, help, manifest, kernel, initramfs
/// and image.
fn fill(parts: &Parts, file: &mut File) -> Result<Vec<u64>> {
    let mut index = Vec::new();
    let mut at = parts.brisk.len() as u64;
    let small: [&[u8]; 5] = [
        parts.flags.as_bytes(),
        parts.help.as_bytes(),
        parts.manifest.as_bytes(),
        &parts.kernel,
        &parts.initramfs,
    ];
    for (number, bytes) in small.into_iter().enumerate() {
        // Texts stand together.
        at = if [1, 2].contains(&number) { at } else { at.next_multiple_of(PAGE) };
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)?;
        index.extend([at, bytes.len() as u64]);
        at += bytes.len() as u64;
    }
    let mut image = BufReader::new(File::open(&parts.image)?);
    let len = image.get_ref().metadata()?.len();
    at = at.next_multiple_of(if len >= LARGE { HUGE } else { PAGE });
    file.seek(SeekFrom::Start(at))?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match image.read(&mut chunk)? {
            0 => break,
            count => file.write_all(&chunk[..count])?,
        }
    }
    index.extend([at, len]);
    // Whole pages, as the image is mapped.
    file.set_len((at + len).next_multiple_of(PAGE))?;
    Ok(index)
}
