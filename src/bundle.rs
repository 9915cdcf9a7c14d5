//! brisk's own file with all that it boots (feature `bundle`), as `cargo xtask bundle` writes it: behind
//! the program, each at a multiple of a page, flags, texts, kernel, initramfs and image.
//!
//! The index is a variable of the program that is filled in afterwards, so nothing has to be looked for.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// How a program finds its own file, whatever it was started by.
pub const OWN_FILE: &str = "/proc/self/exe";

/// Bytes of brisk's own file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Part {
    at: u64,
    len: u64,
}

/// What is where. `cargo xtask bundle` finds it by `magic`.
#[repr(C)]
struct Index {
    magic: [u8; 16],
    /// Arguments: a flag a line, its values after tabs.
    flags: Part,
    /// What `--help` prints.
    help: Part,
    /// What `--brisk-manifest` prints.
    manifest: Part,
    kernel: Part,
    initramfs: Part,
    image: Part,
}

const NONE: Part = Part { at: 0, len: 0 };

#[used]
static INDEX: Index = Index {
    magic: *b"brisk bundle 1\r\n",
    flags: NONE,
    help: NONE,
    manifest: NONE,
    kernel: NONE,
    initramfs: NONE,
    image: NONE,
};

/// A bundle's parts.
#[derive(Debug, Clone, Copy)]
pub struct Bundle {
    kernel: Part,
    initramfs: Part,
    image: Option<Part>,
}

/// The bundle, where this is one.
pub type Bundled = Option<Bundle>;

/// The file, once it is open.
static FILE: OnceLock<File> = OnceLock::new();

/// What the arguments ask of a bundle.
pub enum Asked {
    /// To print this.
    Print(String),
    /// To run with these flags.
    Run(Bundle, String),
}

/// Whether this is one.
pub fn is_one() -> bool {
    index().kernel.len > 0
}

fn index() -> Index {
    // SAFETY: a static of this type. Volatile, since its bytes are other ones than the compiler saw.
    unsafe { (&raw const INDEX).read_volatile() }
}

/// Opens brisk's own file and takes from it what the process's arguments need.
///
/// # Errors
/// It cannot be read.
pub fn find(arguments: &[OsString]) -> Result<Option<Asked>> {
    if !is_one() {
        return Ok(None);
    }
    let Index { flags, help, manifest, kernel, initramfs, image, .. } = index();
    let file = File::open(OWN_FILE).map_err(|error| {
        Error::failed(format!("{OWN_FILE}: {error}; a bundle reads its own file: mount /proc"))
    })?;
    let file = FILE.get_or_init(|| file);
    let only = if let [only] = arguments { only.to_str() } else { None };
    let asked = match only {
        Some("--help") => Asked::Print(text(file, help)?),
        Some("--brisk-manifest") => Asked::Print(text(file, manifest)?),
        _ => {
            let image = (image.len > 0).then_some(image);
            Asked::Run(Bundle { kernel, initramfs, image }, text(file, flags)?)
        }
    };
    Ok(Some(asked))
}

fn text(file: &File, part: Part) -> Result<String> {
    let mut bytes = vec![0; part.len as usize];
    let read = file.read_exact_at(&mut bytes, part.at);
    let text = read.and_then(|()| String::from_utf8(bytes).map_err(io::Error::other));
    text.map_err(|error| {
        Error::failed(format!("{OWN_FILE}: {error}; the bundle is damaged, make it again"))
    })
}

/// The kernel's place in a bundle.
pub fn kernel(bundle: Bundled) -> Option<Part> {
    bundle.map(|bundle| bundle.kernel)
}

/// The initramfs' place in a bundle.
pub fn initramfs(bundle: Bundled) -> Option<Part> {
    bundle.map(|bundle| bundle.initramfs)
}

/// The image's place in a bundle.
pub fn image(bundle: Bundled) -> Option<Part> {
    bundle?.image
}

/// The file again, and where in it `part` starts and how long it is.
///
/// # Errors
/// There is no descriptor free.
pub fn open(part: Part) -> Result<(File, u64, u64)> {
    let Some(file) = FILE.get() else {
        return Err(Error::failed("this brisk is no bundle".into()));
    };
    let file = file.try_clone().map_err(Error::file("bundle:", OWN_FILE))?;
    Ok((file, part.at, part.len))
}
