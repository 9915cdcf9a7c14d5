//! Writes initial RAM file systems: cpio archives in the newc format of Linux'
//! `Documentation/driver-api/early-userspace/buffer-format.rst`. The same entries give the same
//! bytes: no times, no owners, inode numbers in order.

/// Directory bit of a mode.
const DIRECTORY: u32 = 0o040_000;
/// Character device bit of a mode.
const CHARACTER: u32 = 0o020_000;
/// Regular file bit of a mode.
const REGULAR: u32 = 0o100_000;

/// An archive that is being written. Directories come before what is in them.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, mode 755. `path` is without leading slash.
    #[must_use]
    pub fn directory(self, path: &str) -> Self {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a file with permissions `mode`.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, REGULAR | mode, (0, 0), content)
    }

    /// Adds a character device node, mode 600.
    #[must_use]
    pub fn character_device(self, path: &str, major: u32, minor: u32) -> Self {
        self.entry(path, CHARACTER | 0o600, (major, minor), &[])
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]).bytes
    }

    fn entry(mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Self {
        self.inode += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        // Order: ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor,
        // rdevminor, namesize (with the NUL), check (0 in this format).
        let fields = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            u32::try_from(content.len()).unwrap_or(u32::MAX),
            0,
            0,
            device.0,
            device.1,
            u32::try_from(path.len() + 1).unwrap_or(u32::MAX),
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
        self
    }

    /// Names and contents start at multiples of 4.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn header_is_newc() {
        let bytes = Archive::new().file("init", 0o755, b"abc").finish();
        let head = "070701000000010000\
                    81ed00000000000000000000000100000000000000030000000000000000\
                    00000000000000000000000500000000";
        assert_eq!(&bytes[..110], head.as_bytes());
        assert_eq!(&bytes[110..120], b"init\0\0abc\0");
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes.len(), 120 + 110 + 11 + 3);
    }

    /// GNU cpio reads the archive as meant.
    #[test]
    fn cpio_lists_it() {
        let bytes = Archive::new()
            .directory("dev")
            .character_device("dev/console", 5, 1)
            .file("init", 0o755, &[7; 4097])
            .finish();
        let child = Command::new("cpio")
            .args(["-itv", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("package cpio, of `cargo xtask setup`");
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("drwxr-xr-x   2 0        0"), "{text}");
        assert!(lines[1].starts_with("crw-------   1 0        0          5,   1"), "{text}");
        assert!(lines[2].contains("4097 Jan  1  1970 init"), "{text}");
    }
}
