//! What takes long to build, kept outside the checkout: `$BRISK_CACHE` or `~/.cache/brisk`.
//!
//! An artifact is a directory `NAME-KEY`, where KEY is a hash of all that went into it. It is built
//! beside its final place and renamed when whole, so a killed build leaves nothing that looks
//! finished. The files' SHA-256 sums are recorded and checked when the artifact is asked for, unless
//! size, inode and times of all its files are those of the last check.
//!
//! Each change of its inputs makes an artifact anew, and of a disk image that is half a gigabyte. So one
//! that nobody asked for in [`KEPT`] goes when another of its name is made.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Name of the file in an artifact that lists its files' sums.
const MANIFEST: &str = "sha256.json";

/// How long an artifact stays that nobody asks for: who goes back and forth between two branches makes
/// nothing twice.
const KEPT: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// Hexadecimal digits of a key.
const KEY: usize = 16;

/// The cache's directory.
pub struct Cache {
    root: PathBuf,
}

/// What an artifact is made of: its key is the hash of all of it.
#[derive(Default, Clone)]
pub struct Inputs(Sha256);

/// The sums of an artifact's files, by path relative to the artifact.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Manifest(BTreeMap<String, String>);

/// Size, inode, and times of last write and change (s, ns) of an artifact's files, by path.
#[derive(Serialize)]
struct Stamp(BTreeMap<String, (u64, u64, [i64; 4])>);

impl Inputs {
    /// No inputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a named value (a version, a config's text). The order of calls matters.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        // Lengths keep ("ab", "c") and ("a", "bc") apart.
        for part in [name.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds the content of a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn with_file(self, path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| format!("{}: cannot read", path.display()))?;
        Ok(self.with(&path.file_name().unwrap_or_default().to_string_lossy(), content))
    }

    /// The key: [`KEY`] hex digits.
    pub fn key(&self) -> String {
        let mut key = hex(&self.0.clone().finalize());
        key.truncate(KEY);
        key
    }
}

impl Cache {
    /// Opens the cache of this machine, making its directory.
    ///
    /// # Errors
    /// Neither `BRISK_CACHE` nor `HOME` is set, or the directory cannot be made.
    pub fn open() -> Result<Self> {
        let root = match (std::env::var_os("BRISK_CACHE"), std::env::var_os("HOME")) {
            (Some(dir), _) => PathBuf::from(dir),
            (None, Some(home)) => Path::new(&home).join(".cache/brisk"),
            (None, None) => bail!("no place for the cache; set BRISK_CACHE to a directory"),
        };
        Self::at(&root)
    }

    /// Opens the cache in a directory.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn at(root: &Path) -> Result<Self> {
        let cannot = || format!("{}: cannot use as cache; set BRISK_CACHE", root.display());
        fs::create_dir_all(root).with_context(cannot)?;
        Ok(Self { root: root.canonicalize().with_context(cannot)? })
    }

    /// The cache's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the artifact is there (its sums are not checked).
    pub fn has(&self, name: &str, inputs: &Inputs) -> bool {
        self.place(name, inputs).join(MANIFEST).is_file()
    }

    /// The directory of artifact `name` made from `inputs`, building it when it is not there or
    /// damaged.
    ///
    /// `build` gets two directories: `work`, which keeps what an earlier, interrupted build of the
    /// same inputs left, so that a long build can go on where it was; and `out`, empty, which
    /// becomes the artifact. Only one process builds an artifact at a time, the others wait for it.
    ///
    /// # Errors
    /// The build failed, or the cache cannot be written.
    pub fn artifact(
        &self,
        name: &str,
        inputs: &Inputs,
        build: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let place = self.place(name, inputs);
        if self.check(&place)? {
            asked_for(&place);
            return Ok(place);
        }
        let _lock = self.lock(name)?;
        if self.check(&place)? {
            return Ok(place); // another process built it while this one waited
        }
        let stem = format!("{name}-{}", inputs.key());
        let work = self.root.join("work").join(&stem);
        let out = self.root.join("work").join(format!("{stem}.out"));
        remove(&place)?;
        remove(&out)?;
        fs::create_dir_all(&work)?;
        fs::create_dir_all(&out)?;
        build(&work, &out).with_context(|| format!("cannot build {name}"))?;
        let sums = Manifest::of(&out)?;
        fs::write(out.join(MANIFEST), serde_json::to_vec_pretty(&sums)?)?;
        fs::rename(&out, &place).with_context(|| format!("{}: cannot finish", place.display()))?;
        remove(&work)?;
        self.drop_unused(name)?;
        Ok(place)
    }

    /// Removes the artifacts of this name for which nobody asked in [`KEPT`].
    fn drop_unused(&self, name: &str) -> Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let stem = entry.file_name();
            let key = stem.to_str().and_then(|stem| stem.strip_prefix(name)?.strip_prefix('-'));
            let is_key = |key: &str| key.len() == KEY && key.bytes().all(|b| b.is_ascii_hexdigit());
            let last = entry.metadata()?.modified()?;
            let unused = SystemTime::now().duration_since(last).unwrap_or_default();
            if key.is_some_and(is_key) && unused > KEPT {
                remove(&entry.path())?;
                let _ = fs::remove_file(self.root.join("checked").join(stem));
            }
        }
        Ok(())
    }

    /// Takes the lock called `name`, waiting for another xtask that holds it. It ends with the
    /// returned file, or with the process.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn lock(&self, name: &str) -> Result<File> {
        let dir = self.root.join("locks");
        fs::create_dir_all(&dir)?;
        let path = dir.join(name);
        let file = File::create(&path).with_context(|| format!("{}: cannot", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("xtask: another xtask builds {name}, waiting for it");
                file.lock()?;
            }
            Err(TryLockError::Error(e)) => return Err(e).with_context(|| format!("{name}: lock")),
        }
        Ok(file)
    }

    fn place(&self, name: &str, inputs: &Inputs) -> PathBuf {
        self.root.join(format!("{name}-{}", inputs.key()))
    }

    /// Whether a whole and undamaged artifact is at `place`.
    fn check(&self, place: &Path) -> Result<bool> {
        let Ok(text) = fs::read(place.join(MANIFEST)) else { return Ok(false) };
        let Ok(wanted) = serde_json::from_slice::<Manifest>(&text) else { return Ok(false) };
        let checked = self.root.join("checked");
        let file = checked.join(place.file_name().unwrap_or_default());
        let stamp = serde_json::to_vec_pretty(&Stamp::of(place)?)?;
        if fs::read(&file).is_ok_and(|last| last == stamp) {
            return Ok(true);
        }
        let whole = wanted == Manifest::of(place)?;
        if whole {
            fs::create_dir_all(&checked)?;
            fs::write(&file, stamp)?;
        } else {
            eprintln!("xtask: {} is damaged, building it again", place.display());
        }
        Ok(whole)
    }
}

impl Manifest {
    /// Sums of all files below `dir` but the manifest itself.
    fn of(dir: &Path) -> Result<Self> {
        let sums = files(dir)?.into_iter().filter(|(name, _)| name != MANIFEST);
        Ok(Self(sums.map(|(name, path)| Ok((name, file_sum(&path)?))).collect::<Result<_>>()?))
    }
}

impl Stamp {
    /// Of all files below `dir`.
    fn of(dir: &Path) -> Result<Self> {
        let stamp = |path: &Path| -> Result<_> {
            let m = fs::metadata(path)?;
            Ok((m.size(), m.ino(), [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()]))
        };
        let files = files(dir)?.into_iter();
        Ok(Self(files.map(|(name, path)| Ok((name, stamp(&path)?))).collect::<Result<_>>()?))
    }
}

/// All files below `dir`: names relative to it, and paths.
///
/// # Errors
/// A directory cannot be read.
pub fn files(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
                found.push((name, path));
            }
        }
    }
    Ok(found)
}

/// SHA-256 of a file, in hex.
pub fn file_sum(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).with_context(|| format!("{}: cannot open", path.display()))?;
    io::copy(&mut file, &mut hasher)?;
    Ok(hex(&hasher.finalize()))
}

/// SHA-256 of bytes, in hex.
pub fn sum(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Notes when an artifact was last asked for; in a cache that is read-only nothing is removed either.
fn asked_for(place: &Path) {
    let _ = File::open(place).and_then(|dir| dir.set_modified(SystemTime::now()));
}

/// Removes a directory with all in it; that it is not there is fine.
fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("{}: cannot remove", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &'static str) -> impl FnOnce(&Path, &Path) -> Result<()> {
        move |_, out| Ok(fs::write(out.join("file"), text)?)
    }

    #[test]
    fn builds_once_and_again_when_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let inputs = Inputs::new().with("version", "1");
        assert!(!cache.has("thing", &inputs));
        let place = cache.artifact("thing", &inputs, write("one")).unwrap();
        assert!(cache.has("thing", &inputs));
        let again = cache.artifact("thing", &inputs, |_, _| bail!("built twice")).unwrap();
        assert_eq!(place, again);
        fs::write(place.join("file"), "damaged").unwrap();
        cache.artifact("thing", &inputs, write("two")).unwrap();
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "two");
        fs::write(place.join("more"), "not of the artifact").unwrap();
        cache.artifact("thing", &inputs, write("three")).unwrap();
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "three");
    }

    #[test]
    fn what_nobody_asks_for_goes_when_another_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let make = |name: &str, version: &str| {
            cache.artifact(name, &Inputs::new().with("version", version), write("text")).unwrap()
        };
        let all = || {
            [("thing", "1"), ("thing", "2"), ("thing-b", "1")]
                .map(|(name, version)| make(name, version))
        };
        all();
        let [old, asked, other] = all(); // checked now
        for place in [&old, &asked, &other] {
            let long_ago = SystemTime::now() - KEPT - Duration::from_secs(60);
            File::open(place).unwrap().set_modified(long_ago).unwrap();
        }
        assert_eq!(make("thing", "2"), asked);
        assert!(old.exists(), "something was removed where nothing was made");
        let new = make("thing", "3");
        assert!(!old.exists() && [&asked, &other, &new].iter().all(|place| place.exists()));
        assert_eq!(fs::read_dir(dir.path().join("checked")).unwrap().count(), 2);
    }

    #[test]
    fn a_failed_build_leaves_its_work_and_no_artifact() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let inputs = Inputs::new();
        let first = cache.artifact("thing", &inputs, |work, out| {
            fs::write(work.join("half"), "kept")?;
            fs::write(out.join("file"), "dropped")?;
            bail!("killed")
        });
        assert!(format!("{:#}", first.unwrap_err()).contains("cannot build thing: killed"));
        assert!(!cache.has("thing", &inputs));
        let place = cache
            .artifact("thing", &inputs, |work, out| {
                assert_eq!(fs::read_dir(out)?.count(), 0);
                fs::rename(work.join("half"), out.join("whole"))?;
                Ok(())
            })
            .unwrap();
        assert_eq!(fs::read_to_string(place.join("whole")).unwrap(), "kept");
        assert_eq!(fs::read_dir(dir.path().join("work")).unwrap().count(), 0);
    }

    #[test]
    fn keys_tell_inputs_apart() {
        let key = |a: &str, b: &str| Inputs::new().with(a, b).key();
        assert_eq!(key("a", "b"), key("a", "b"));
        assert_ne!(key("ab", "c"), key("a", "bc"));
        assert_ne!(Inputs::new().with("a", "").key(), Inputs::new().key());
        assert_eq!(key("a", "b").len(), 16);
    }
}
