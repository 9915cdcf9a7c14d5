//! Device models as pure state machines.
//!
//! A device takes register accesses and request headers and returns values and effects: "this byte
//! was sent", "the driver started the device", "this request wants these sectors". Nothing here
//! opens a file, takes a lock, reads a clock or allocates, so each device runs unchanged under a
//! unit test, a fuzzer or any hypervisor.
//!
//! The guest is hostile: every access of every width at every offset in every state returns; none
//! panics, overflows or loops without bound.
//!
//! | module | feature | models |
//! |---|---|---|
//! | [`ioapic`] | always | I/O APIC with as many pins as the machine uses |
//! | `serial` | `serial` | 16550A UART |
//! | `streams` | `streams` | a workload's standard streams on a console |
//! | `virtio` | `virtio` | device status, feature negotiation, queue registers |
//! | `virtio::mmio` | `mmio` | virtio over MMIO |
//! | `pci` | `pci` | configuration accesses, host bridge, MSI-X |
//! | `virtio::pci` | `pci` | virtio over PCI |
//! | `virtio::console` | `console` | virtio-console |
//! | `virtio::block` | `block` | virtio-blk |
//! | `virtio::pmem` | `pmem` | virtio-pmem |
//! | `virtio::rng` | `rng` | virtio-rng |
//!
//! No feature is on by default: `brisk-devices = { version = "0.1", features = ["serial", "block", "mmio"] }` has
//! what the example needs.
//!
//! # Driven by a loop of accesses
//!
//! A hypervisor's exits are accesses to ports and to addresses where no memory is. Each goes to its device,
//! and what the device answers is done there and then.
//!
#![cfg_attr(all(feature = "serial", feature = "block", feature = "mmio"), doc = "```")]
#![cfg_attr(not(all(feature = "serial", feature = "block", feature = "mmio")), doc = "```ignore")]
//! use brisk_devices::serial::Serial;
//! use brisk_devices::virtio::block::{Block, Options, Request};
//! use brisk_devices::virtio::{Common, Effect, mmio};
//!
//! enum Exit {
//!     Out { port: u16, value: u8 },
//!     Write { address: u64, value: u32 },
//! }
//! const WINDOW: u64 = 0xd000_0000;
//! let mut uart = Serial::new();
//! let mut disk = Block::new(&Options { capacity: 8, ..Options::default() });
//! let mut common = Common::<1>::new();
//!
//! // What a guest's UART driver and virtio driver do; in a hypervisor, what KVM_RUN comes back with.
//! let register = |offset, value| Exit::Write { address: WINDOW + offset, value };
//! let exits = [
//!     Exit::Out { port: 0x3f8, value: b'!' },
//!     register(0x070, 1 | 2),              // Status: ACKNOWLEDGE, DRIVER
//!     register(0x024, 1),                  // DriverFeaturesSel
//!     register(0x020, 1),                  // DriverFeatures: VIRTIO_F_VERSION_1
//!     register(0x070, 1 | 2 | 8),          // Status: FEATURES_OK
//!     register(0x030, 0),                  // QueueSel
//!     register(0x038, 16),                 // QueueSize
//!     register(0x080, 0x1000),             // QueueDesc
//!     register(0x090, 0x2000),             // QueueDriver
//!     register(0x0a0, 0x3000),             // QueueDevice
//!     register(0x044, 1),                  // QueueReady
//!     register(0x070, 1 | 2 | 8 | 4),      // Status: DRIVER_OK
//!     register(0x050, 0),                  // QueueNotify
//! ];
//! let (mut printed, mut notified) = (Vec::new(), Vec::new());
//! for exit in exits {
//!     match exit {
//!         Exit::Out { port: 0x3f8..=0x3ff, value } => {
//!             printed.extend(uart.write(0, value));
//!             // `uart.irq()` is the level of its interrupt now.
//!         }
//!         Exit::Write { address, value } if (WINDOW..WINDOW + mmio::SIZE).contains(&address) => {
//!             match mmio::write(&mut common, &mut disk, address - WINDOW, &value.to_le_bytes()) {
//!                 // The rings are where the driver says. To walk them is the hypervisor's (the crate
//!                 // virtio-queue does): behind a used buffer `common.interrupt(Reason::Queue)`, then its
//!                 // interrupt.
//!                 Effect::Activate => assert!(common.queue(0).is_some_and(|queue| queue.ready())),
//!                 Effect::Notify(queue) => notified.push(queue),
//!                 Effect::Reset | Effect::QueueStop(_) | Effect::None => {}
//!             }
//!         }
//!         _ => {}
//!     }
//! }
//! assert_eq!((printed, notified), (vec![b'!'], vec![0]));
//!
//! // A read of a register: the first word of the configuration space, its capacity in sectors.
//! let mut capacity = [0; 4];
//! mmio::read(&common, &disk, mmio::CONFIG, &mut capacity);
//! assert_eq!(u32::from_le_bytes(capacity), 8);
//!
//! // The first descriptor of a chain has a request's header: here to read sector 1, into 512 bytes.
//! let mut header = [0; 16];
//! header[8] = 1;
//! let Ok(Request::In(range)) = disk.parse(&header, 0, 512) else { panic!() };
//! assert_eq!((range.offset, range.len), (512, 512));
//! ```
//!
//! `tests/freestanding` in the repository has a program without std that does the same with both crates.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

#[cfg(test)]
extern crate std;

pub mod ioapic;
mod msi;
#[cfg(feature = "pci")]
pub mod pci;
#[cfg(feature = "serial")]
pub mod serial;
#[cfg(feature = "snapshot")]
pub mod snapshot;
#[cfg(feature = "streams")]
pub mod streams;
#[cfg(feature = "virtio")]
pub mod virtio;

pub use msi::Msi;
