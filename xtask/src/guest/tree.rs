//! A directory as the root of a guest.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Whether `path` leads to something in a guest whose root is `root`.
pub fn has(root: &Path, path: &Path) -> bool {
    /// As Linux has it (`MAXSYMLINKS`).
    const LINKS: u32 = 40;
    let words = |path: &Path| path.iter().rev().map(OsStr::to_owned).collect::<Vec<_>>();
    let (mut at, mut left, mut links) = (PathBuf::new(), words(path), 0);
    while let Some(word) = left.pop() {
        match word.to_str() {
            Some("/") => at.clear(),
            Some("..") => drop(at.pop()),
            _ => {
                let next = at.join(&word);
                let Ok(found) = fs::symlink_metadata(root.join(&next)) else { return false };
                match fs::read_link(root.join(&next)) {
                    Ok(to) if found.is_symlink() && links < LINKS => left.extend(words(&to)),
                    Ok(_) => return false,
                    Err(_) => at = next,
                }
                links += u32::from(found.is_symlink());
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_where_they_do_in_the_guest() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(root.path().join("usr/bin/program"), "").unwrap();
        symlink("/usr/bin", root.path().join("bin")).unwrap();
        symlink("../../bin/program", root.path().join("usr/bin/other")).unwrap();
        symlink("/bin/endless", root.path().join("usr/bin/endless")).unwrap();
        let there = |path: &str| has(root.path(), Path::new(path));
        for path in ["/usr/bin/program", "/bin/program", "/bin/other", "/../bin/./program", "/"] {
            assert!(there(path), "{path}");
        }
        // `sh` is on this machine, and not in the root.
        for path in ["/bin/sh", "/bin/program -x", "/bin/endless", "/nope/../bin/program"] {
            assert!(!there(path), "{path}");
        }
    }
}
