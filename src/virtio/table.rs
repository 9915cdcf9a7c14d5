//! The table of devices: a row each. From it come the enum, the dispatch, what the command line may
//! ask for, the order in which they are opened, and with that their windows and PCI functions.
//!
//! A device that is new is its model in `brisk-devices`, its host side in a file here, a row, a flag and
//! a feature.

use super::{Backend, Host, VirtioDevice};
use crate::error::Result;

/// What a device is made of, as its own file says.
pub trait Kind<const Q: usize>: Backend<Q> {
    /// What its flag asks for.
    type Config: std::fmt::Debug;

    /// Makes the device that `config` asks for, with what it needs of `host`.
    ///
    /// # Errors
    /// Says what cannot be used, by its flag.
    fn open(config: &'static Self::Config, host: &mut Host<'_>) -> Result<Self>
    where
        Self: Sized;
}

macro_rules! table {
    ($dollar:tt $($feature:literal $flag:literal $list:ident:
        $variant:ident($backend:ty, $queues:expr);)+) => {
        /// The flags of all devices, each with a comma behind it.
        pub(super) const FLAGS: &str = concat!($($flag, ", ",)+);

        /// A device by its kind.
        pub(super) enum Device {
            $(#[cfg(feature = $feature)]
            $variant(Box<VirtioDevice<$backend, { $queues }>>),)+
        }

        /// The devices that the command line asks for, each kind in the order given.
        #[derive(Debug, Default)]
        pub struct Configs {
            $(#[doc = concat!("`", $flag, "`")]
            #[cfg(feature = $feature)]
            pub $list: Vec<<$backend as Kind<{ $queues }>>::Config>,)+
        }

        impl Configs {
            /// Makes them all, in the order of the table.
            pub(super) fn open(&'static self, host: &mut Host<'_>) -> Result<Vec<Device>> {
                let mut devices = Vec::new();
                $(#[cfg(feature = $feature)]
                for config in &self.$list {
                    host.index = devices.len();
                    let backend = <$backend>::open(config, host)?;
                    devices.push(Device::$variant(Box::new(VirtioDevice::new(backend))));
                })+
                Ok(devices)
            }
        }

        /// The same expression for a device of any kind.
        macro_rules! each {
            ($dollar device:expr, $dollar name:ident => $dollar body:expr) => {
                match $dollar device {
                    $(#[cfg(feature = $feature)]
                    $crate::virtio::table::Device::$variant($dollar name) => $dollar body,)+
                }
            };
        }
        pub(super) use each;
    };
}

table! { $
    "console" "--console" consoles: Console(super::console::Console, brisk_devices::virtio::console::QUEUES);
    "block" "--disk" disks: Block(super::block::Block, super::block::MAX_QUEUES);
    "pmem" "--pmem" pmems: Pmem(super::pmem::Pmem, brisk_devices::virtio::pmem::QUEUES);
    "rng" "--rng" rngs: Rng(super::rng::Rng, brisk_devices::virtio::rng::QUEUES);
}
