//! What a file or directory is that is to be a root.

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::guest::oci::Source;

/// A file system that our init mounts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// `fs/erofs/erofs_fs.h`
    Erofs,
    /// `fs/ext4/ext4.h`; ext2 and ext3 have the same magic number.
    Ext4,
    /// `fs/xfs/libxfs/xfs_format.h`
    Xfs,
}

impl Format {
    /// As mount(2) has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

/// Where in an image the file system is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Which it is.
    pub format: Format,
    /// In the first partition of an MBR, or alone.
    pub partition: bool,
}

/// Bytes of the start of a file system that tell what it is.
const START: usize = 2048;
/// What an archive starts with: gzip, xz, zstd, bzip2.
const PACKED: [&[u8]; 4] = [b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh"];

/// What `--root` names.
///
/// # Errors
/// Nothing is there, or nothing that can be a root.
pub fn source(text: &str) -> Result<Source> {
    let path = Path::new(text);
    // LAYOUT:TAG
    let layout = text.rsplit_once(':').map_or(path, |(dir, _)| Path::new(dir));
    if !path.exists() && layout.join("oci-layout").is_file() {
        return Ok(Source::Oci(text.to_owned()));
    }
    ensure!(path.exists(), "--root {text}: no such file or directory");
    if path.join("oci-layout").is_file() {
        return Ok(Source::Oci(text.to_owned()));
    }
    if path.is_dir() {
        return Ok(Source::Rootfs(path.canonicalize()?));
    }
    let start = read(path, 0)?;
    if start.get(257..262) == Some(b"ustar") || PACKED.iter().any(|magic| start.starts_with(magic))
    {
        return Ok(Source::Tar(path.to_owned()));
    }
    place(path)?;
    Ok(Source::Image(path.canonicalize()?))
}

/// Where in an image its file system is.
///
/// # Errors
/// There is none that is known.
pub fn place(path: &Path) -> Result<Place> {
    let start = read(path, 0)?;
    if let Some(format) = format(&start) {
        return Ok(Place { format, partition: false });
    }
    // A master boot record: UEFI specification 2.10, section 5.2.1.
    let signed = start.get(510..512) == Some(&[0x55, 0xaa]);
    if let (true, Some([a, b, c, d])) = (signed, start.get(454..458)) {
        let sector = u32::from_le_bytes([*a, *b, *c, *d]);
        if let Some(format) = format(&read(path, u64::from(sector) * 512)?) {
            return Ok(Place { format, partition: true });
        }
    }
    let name = path.display();
    if start.starts_with(b"QFI\xfb") {
        bail!("--root {name}: a qcow2 image; make it raw: qemu-img convert -O raw {name} root.raw");
    }
    bail!(
        "--root {name}: neither EROFS, ext4 nor XFS, alone or in the first partition, nor a tar archive"
    )
}

fn read(path: &Path, at: u64) -> Result<Vec<u8>> {
    let cannot = || format!("--root {}", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    file.seek(SeekFrom::Start(at)).with_context(cannot)?;
    let mut bytes = Vec::new();
    file.take(START as u64).read_to_end(&mut bytes).with_context(cannot)?;
    Ok(bytes)
}

fn format(start: &[u8]) -> Option<Format> {
    let at = |from: usize, magic: &[u8]| start.get(from..from + magic.len()) == Some(magic);
    match () {
        () if at(1024, &0xe0f5_e1e2_u32.to_le_bytes()) => Some(Format::Erofs),
        () if at(1024 + 0x38, &0xef53_u16.to_le_bytes()) => Some(Format::Ext4),
        () if at(0, b"XFSB") => Some(Format::Xfs),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::images;
    use duct::cmd;
    use std::fs;

    #[test]
    fn what_a_root_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let of = |name: &str| source(&at(name).to_string_lossy()).map_err(|e| format!("{e:#}"));
        let tree = at("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), "x").unwrap();
        assert_eq!(of("tree").unwrap(), Source::Rootfs(tree.canonicalize().unwrap()));
        images::ext4(&tree, &at("ext4"), 0, 8).unwrap();
        images::ext4(&tree, &at("part"), 2 << 20, 8).unwrap();
        cmd!("tar", "-cf", at("tar"), "-C", &tree, ".").run().unwrap();
        cmd!("tar", "-czf", at("tgz"), "-C", &tree, ".").run().unwrap();
        let image = |partition| Place { format: Format::Ext4, partition };
        assert_eq!(place(&at("ext4")).unwrap(), image(false));
        assert_eq!(place(&at("part")).unwrap(), image(true));
        assert!(matches!(of("ext4").unwrap(), Source::Image(_)));
        for name in ["tar", "tgz"] {
            assert_eq!(of(name).unwrap(), Source::Tar(at(name)));
        }
        for (name, magic) in [("erofs", 1024), ("xfs", 0)] {
            let mut bytes = vec![0; 4096];
            let magic: (usize, &[u8]) =
                if magic == 0 { (0, b"XFSB") } else { (magic, b"\xe2\xe1\xf5\xe0") };
            bytes[magic.0..magic.0 + 4].copy_from_slice(magic.1);
            fs::write(at(name), bytes).unwrap();
            assert_eq!(place(&at(name)).unwrap().format.name(), name);
        }
        fs::write(at("qcow2"), b"QFI\xfb").unwrap();
        assert!(of("qcow2").unwrap_err().contains("qemu-img convert"));
        fs::write(at("text"), "no image").unwrap();
        assert!(of("text").unwrap_err().contains("neither EROFS, ext4 nor XFS"));
        assert!(of("nothing").unwrap_err().ends_with("nothing: no such file or directory"));
        fs::write(tree.join("oci-layout"), "{}").unwrap();
        assert!(matches!(of("tree").unwrap(), Source::Oci(_)));
        assert!(matches!(of("tree:latest").unwrap(), Source::Oci(_)));
    }
}
