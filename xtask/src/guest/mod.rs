//! What is booted: kernels, the guest's init, initramfs archives and disk images.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use stock::Stock;

pub mod cpio;
pub mod images;
pub mod init;
pub mod kernel;
pub mod oci;
pub mod place;
pub mod python;
pub mod stock;
pub mod tree;

/// A guest's kernel.
pub enum Kernel {
    /// Built here.
    Own(kernel::Config),
    /// Debian's, as packed, with the initramfs that goes with it.
    Stock(&'static Stock),
    /// A file.
    File(PathBuf),
}

impl FromStr for Kernel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.parse(), stock::find(text)) {
            (Ok(config), _) => Ok(Self::Own(config)),
            (_, Some(stock)) => Ok(Self::Stock(stock)),
            _ if Path::new(text).is_file() => Ok(Self::File(text.into())),
            _ => {
                let own = kernel::Config::ALL.iter().map(|(name, _)| *name);
                let names: Vec<_> = own.chain(stock::ALL.iter().map(|stock| stock.name)).collect();
                Err(format!("{text}: neither {} nor a file", names.join(", ")))
            }
        }
    }
}

impl Kernel {
    /// What `--kernel` calls it.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Own(config) => config.name().into(),
            Self::Stock(stock) => stock.name.into(),
            Self::File(path) => path.to_string_lossy(),
        }
    }
}

/// A guest's console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Console {
    /// A UART, ttyS0.
    Serial,
    /// virtio-console, hvc0.
    Virtio,
}
