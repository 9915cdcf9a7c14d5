//! The table of devices: a row each. From it come the enum, the dispatch, what the command line may
//! ask for, the order in which they are opened, and with that their windows and PCI functions.
//!
//! A device that is new is its model in `brisk-devices`, its host side in a file here, a row, a flag and
//! a feature.

use super::{Backend, Host, VirtioDevice};
#[cfg(feature = "smp")]
use super::{Halt, Lane};
use crate::cli::Flags;
use crate::error::Result;

/// What a device is made of, as its own file says.
pub trait Kind: Backend + Sized {
    /// What its flag asks for.
    type Config: std::fmt::Debug;

    /// The devices of this kind that the command line asks for.
    ///
    /// # Errors
    /// A flag's value that makes no sense.
    fn configs(flags: &mut Flags<'_>) -> Result<Vec<Self::Config>>;

    /// A parameter that the kernel's command line gets for such a device.
    fn parameter(_config: &Self::Config) -> Option<&'static str> {
        None
    }

    /// Makes the device that `config` asks for, with what it needs of `host`: what its driver sees, and
    /// what stands behind each queue.
    ///
    /// # Errors
    /// Says what cannot be used, by its flag.
    fn open(config: &'static Self::Config, host: &mut Host<'_>)
    -> Result<(Self::Model, Vec<Self>)>;
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

        /// A queue of a device by its kind.
        #[cfg(feature = "smp")]
        pub(super) enum AnyLane {
            $(#[cfg(feature = $feature)]
            $variant(Lane<$backend>),)+
        }

        #[cfg(feature = "smp")]
        impl Device {
            /// The way to queue `index`.
            pub(super) fn lane(&self, index: u16) -> Option<AnyLane> {
                match self {
                    $(#[cfg(feature = $feature)]
                    Device::$variant(device) => device.lane(index).map(AnyLane::$variant),)+
                }
            }
        }

        #[cfg(feature = "smp")]
        impl AnyLane {
            /// Moves the queue, if the driver has started it.
            pub(super) fn serve(&self) -> std::result::Result<bool, Halt> {
                match self {
                    $(#[cfg(feature = $feature)]
                    AnyLane::$variant(lane) => lane.serve(),)+
                }
            }
        }

        /// The devices that the command line asks for, each kind in the order given.
        #[derive(Debug, Default)]
        pub struct Configs {
            $(#[doc = concat!("`", $flag, "`")]
            #[cfg(feature = $feature)]
            pub $list: Vec<<$backend as Kind>::Config>,)+
        }

        impl Configs {
            /// Takes each kind's own of `flags`.
            ///
            /// # Errors
            /// A flag's value that makes no sense.
            pub fn parse(flags: &mut Flags<'_>) -> Result<Configs> {
                Ok(Configs {
                    $(#[cfg(feature = $feature)]
                    $list: <$backend>::configs(flags)?,)+
                })
            }

            /// Adds the parameters that the kernel's command line gets for them.
            pub fn add_parameters(&self, _to: &mut Vec<&str>) {
                $(#[cfg(feature = $feature)]
                for config in &self.$list {
                    _to.extend(<$backend>::parameter(config));
                })+
            }

            /// Makes them all, in the order of the table.
            pub(super) fn open(&'static self, host: &mut Host<'_>) -> Result<Vec<Device>> {
                let mut devices = Vec::new();
                $(#[cfg(feature = $feature)]
                for config in &self.$list {
                    host.index = devices.len();
                    let (model, backends) = <$backend>::open(config, host)?;
                    devices.push(Device::$variant(Box::new(VirtioDevice::new(model, backends))));
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
    "streams" "--console streams" streams: Streams(super::streams::Side, brisk_devices::virtio::console::QUEUES);
    "block" "--disk" disks: Block(super::block::Block, super::block::MAX_QUEUES);
    "pmem" "--pmem" pmems: Pmem(super::pmem::Pmem, brisk_devices::virtio::pmem::QUEUES);
    "rng" "--rng" rngs: Rng(super::rng::Rng, brisk_devices::virtio::rng::QUEUES);
}
