//! virtio-blk's host side (feature `block`): one request, one call to the kernel, straight between
//! the file and the guest's pages.

use brisk_devices::virtio::block::{self, Options, Request, Status};

mod disk;
mod flight;
#[cfg(feature = "io-uring")]
mod uring;
#[cfg(not(feature = "io-uring"))]
#[path = "uring/off.rs"]
mod uring;

use self::disk::Disk;
use self::flight::{Flight, Operation};
use self::uring::Engine;
#[cfg(all(feature = "io-uring", feature = "seccomp"))]
pub(crate) use self::uring::RULES as RING_RULES;
use super::queue::{self, Broken, Buffers, Taken};
use super::{Backend, Found, Halt, Host, Kind, Queue};
use crate::cli::Flags;
use crate::config::{need, on_off, pairs, unknown, usage};
use crate::error::Result;
use crate::events::Events;
use crate::image::{self, Image, Sector, Wish};
use crate::inputs::{self, Id};
#[cfg(feature = "seccomp")]
use crate::seccomp::rule::Rule;
use crate::shared::Handle;

/// The most queues that a disk can have. Each is served by whoever notified it, beside the others.
pub const MAX_QUEUES: usize = if cfg!(feature = "smp") { 8 } else { 1 };

/// What a disk asks of the kernel while the guest runs. By F_SETFL it goes on without O_DIRECT.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[Rule] = &[
    Rule::call(libc::SYS_preadv),
    Rule::call(libc::SYS_pwritev),
    Rule::call(libc::SYS_fdatasync),
    Rule::call(libc::SYS_fallocate),
    Rule::fcntl(libc::F_GETFL),
    Rule::fcntl(libc::F_SETFL),
];

/// `--disk path=,readonly=on|off,direct=on|off,engine=sync|io_uring`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskConfig {
    /// The image.
    pub path: String,
    /// The guest may not write.
    pub readonly: bool,
    /// Past the host's page cache (O_DIRECT).
    pub direct: bool,
    /// Requests go on while the guest runs; without, the vCPU does each one in its exit.
    pub io_uring: bool,
}

impl DiskConfig {
    /// Parses the flag's value.
    ///
    /// # Errors
    /// An unknown key, a malformed value, or no path.
    pub fn parse(text: &str) -> Result<DiskConfig> {
        let mut config = DiskConfig::default();
        for (key, value) in pairs(text) {
            match key {
                "path" => config.path = value.into(),
                "readonly" => config.readonly = on_off("--disk readonly", value)?,
                "direct" => config.direct = on_off("--disk direct", value)?,
                "engine" => {
                    config.io_uring = match value {
                        "sync" => false,
                        "io_uring" => true,
                        _ => return usage(format!("--disk engine={value}: give sync or io_uring")),
                    };
                }
                _ => return unknown("--disk", key, "path, readonly, direct, engine"),
            }
        }
        if config.path.is_empty() {
            return usage(format!("--disk {text}: give path=FILE"));
        }
        need(!config.io_uring || cfg!(feature = "io-uring"), "--disk engine=io_uring", "io-uring")?;
        Ok(config)
    }
}

/// What stands behind one queue of a disk: a raw image.
pub struct Block {
    model: block::Block,
    disk: Disk,
    buffers: Buffers,
    engine: Option<Engine>,
}

impl Kind for Block {
    type Config = DiskConfig;

    fn configs(flags: &mut Flags<'_>) -> Result<Vec<DiskConfig>> {
        flags.args.disk.iter().map(|text| DiskConfig::parse(text)).collect()
    }

    fn open(
        config: &'static DiskConfig,
        host: &mut Host<'_>,
    ) -> Result<(block::Block, Vec<Block>)> {
        let (model, blocks, id) = Block::open_image(config, host.cpus, host.event())?;
        inputs::claim("--disk", &config.path, id, !config.readonly)?;
        Ok((model, blocks))
    }
}

impl Block {
    /// Opens and locks the image, which is file `Id`; the disk has a queue for each of `cpus`, as far as
    /// there are, and `event` says that requests are done.
    ///
    /// # Errors
    /// The image cannot be used.
    pub fn open_image(
        config: &DiskConfig,
        cpus: u8,
        event: Events,
    ) -> Result<(block::Block, Vec<Block>, Option<Id>)> {
        let path = &config.path;
        let wish = Wish {
            flag: "--disk",
            path,
            writes: !config.readonly,
            direct: config.direct,
            readonly: "readonly=on",
        };
        let Image { file, len, sector: Sector(sector), id } = wish.open()?;
        wish.check_units(len, block::SECTOR, "512", "")?;
        let options = Options {
            capacity: len / block::SECTOR,
            readonly: config.readonly,
            block_size: sector,
            physical_block_size: sector.max(4096),
            discard: true,
            write_zeroes: true,
            queues: u16::from(cpus).min(MAX_QUEUES as u16),
            id: image::id(path),
            ..Options::default()
        };
        let disk = Disk { file: Handle::new(file), direct: config.direct, write_through: false };
        let model = block::Block::new(&options);
        let blocks = (0..options.queues)
            .map(|_| Block {
                model: model.clone(),
                disk: disk.clone(),
                buffers: Buffers::default(),
                engine: Engine::open(config, &options, &disk, event),
            })
            .collect();
        Ok((model, blocks, id))
    }
}

impl Backend for Block {
    type Model = block::Block;

    const OFTEN: bool = true;

    #[cfg(feature = "snapshot")]
    fn waits(&self) -> bool {
        self.engine.as_ref().is_some_and(Engine::waits)
    }

    #[cfg(feature = "snapshot")]
    fn image(&self) -> Option<&std::fs::File> {
        Some(&self.disk.file)
    }

    fn activate(&mut self, features: u64) {
        self.disk.write_through = block::Block::write_through(features);
    }

    fn process(&mut self, queue: &mut Queue) -> std::result::Result<bool, Halt> {
        let Self { model, disk, buffers, engine } = self;
        let interrupt = queue::drain(queue, |chain| {
            let head = chain.head();
            buffers.collect(chain)?;
            // The status is the last byte that the device may write, wherever the driver put the
            // borders between buffers (virtio 1.3, 2.7.4).
            let Some(last) = buffers.writable.last_mut() else { return Err(Broken) };
            last.iov_len -= 1;
            // SAFETY: the last byte of a buffer that `collect` checked; empty ones are left out.
            let status = unsafe { last.iov_base.cast::<u8>().add(last.iov_len) };
            // The status comes after all of the data, used or not.
            let room = (queue::len(&buffers.writable) + 1).min(u64::from(u32::MAX)) as u32;
            let result = match parse(model, buffers) {
                Ok(request)
                    if let Some(engine) = engine
                        && let Some((operation, offset, list)) = for_ring(request, buffers) =>
                {
                    let offset = offset + engine.at_once(disk, operation, list, offset);
                    if operation == Operation::Flush || !list.is_empty() {
                        let buffers = std::mem::take(list);
                        let flight = Flight { head, operation, buffers, offset, room, status };
                        engine.push(flight).map_err(|_| Broken)?;
                        return Ok(Taken::Later);
                    }
                    Ok(())
                }
                Ok(request) => execute(model, disk, request, buffers),
                Err(code) => Err(code),
            };
            let code = result.err().unwrap_or(Status::Ok);
            // SAFETY: see above.
            unsafe { status.write_volatile(code as u8) };
            Ok(Taken::Used(room))
        })?;
        if let Some(engine) = engine {
            return Ok(give_back(queue, interrupt, |each| engine.run(disk, each))?);
        }
        Ok(interrupt)
    }

    fn poll(&mut self, _events: Events, _model: &mut block::Block) -> Found {
        Found { queue: self.engine.as_ref().is_some_and(Engine::done), ..Found::default() }
    }

    fn stop(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.quiesce(&self.disk, |_, _| ());
        }
    }

    fn quiesce(&mut self, queue: &mut Queue) -> std::result::Result<bool, Halt> {
        let Some(engine) = &mut self.engine else { return Ok(false) };
        Ok(give_back(queue, false, |each| engine.quiesce(&self.disk, each))?)
    }
}

/// Gives back what `from` says is done. True where the driver wants an interrupt.
fn give_back(
    queue: &mut Queue,
    interrupt: bool,
    from: impl FnOnce(&mut dyn FnMut(u16, u32)),
) -> std::result::Result<bool, Broken> {
    let mut used = false;
    let mut result = Ok(());
    from(&mut |head, written| {
        used = true;
        if result.is_ok() {
            result = queue.give_back(head, written);
        }
    });
    result?;
    Ok(interrupt || (used && queue.wants_interrupt()))
}

/// What of a request the ring can do, where in the file, and with which buffers; the rest is done in
/// the exit.
fn for_ring(
    request: Request,
    buffers: &mut Buffers,
) -> Option<(Operation, u64, &mut Vec<libc::iovec>)> {
    let (operation, offset, list) = match request {
        Request::In(range) => (Operation::Read, range.offset, &mut buffers.writable),
        Request::Out(range) => (Operation::Write, range.offset, &mut buffers.readable),
        Request::Flush => (Operation::Flush, 0, &mut buffers.readable),
        _ => return None,
    };
    list.retain(|buffer| buffer.iov_len > 0);
    // A list longer than the kernel takes goes the other way, in parts.
    (list.len() <= libc::UIO_MAXIOV as usize).then_some((operation, offset, list))
}

/// Takes the header off a request whose status byte is no longer in `buffers`.
fn parse(model: &block::Block, buffers: &mut Buffers) -> std::result::Result<Request, Status> {
    let mut header = [0; block::HEADER_LEN];
    if queue::take_front(&mut buffers.readable, &mut header) < header.len() {
        return Err(Status::IoErr);
    }
    model.parse(&header, queue::len(&buffers.readable), queue::len(&buffers.writable))
}

/// Does one request, of which only data is left in `buffers`.
fn execute(
    model: &block::Block,
    disk: &Disk,
    request: Request,
    buffers: &mut Buffers,
) -> std::result::Result<(), Status> {
    let done = match request {
        Request::In(range) => disk.transfer(&mut buffers.writable, range.offset, libc::preadv),
        Request::Out(range) => disk
            .transfer(&mut buffers.readable, range.offset, libc::pwritev)
            .and_then(|()| if disk.write_through { disk.file.sync_data() } else { Ok(()) }),
        Request::Flush => disk.file.sync_data(),
        Request::GetId => {
            queue::put_front(&mut buffers.writable, model.id());
            Ok(())
        }
        Request::Discard(count) | Request::WriteZeroes(count) => {
            let mut segments = Vec::with_capacity(count as usize);
            for _ in 0..count {
                let mut bytes = [0; block::SEGMENT_LEN];
                queue::take_front(&mut buffers.readable, &mut bytes);
                segments.push(model.segment(request, &bytes)?);
            }
            let discard = matches!(request, Request::Discard(_));
            segments.iter().try_for_each(|segment| disk.clear(segment, discard))
        }
    };
    done.map_err(|error| {
        log::debug!("--disk: {error}");
        Status::IoErr
    })
}

#[cfg(all(test, feature = "io-uring"))]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::*;

    /// A request that has to wait is the ring's, whichever way its bytes go, and the vCPU's no more.
    #[test]
    fn what_has_to_wait_goes_to_the_ring() {
        for kind in [0u32, 1] {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2_0000)]).unwrap();
            let (mut from, mut to) = std::io::pipe().unwrap();
            // Nothing to read, or no room to write.
            let file = if kind == 0 {
                OwnedFd::from(from.try_clone().unwrap())
            } else {
                to.write_all(&[0; 65536]).unwrap();
                OwnedFd::from(to.try_clone().unwrap())
            };
            let options = Options { capacity: 128, ..Options::default() };
            let disk =
                Disk { file: Handle::new(File::from(file)), direct: false, write_through: false };
            let config = DiskConfig { io_uring: true, ..DiskConfig::default() };
            let engine = Engine::open(&config, &options, &disk, Events::NONE);
            let model = block::Block::new(&options);
            let mut block = Block { model, disk, buffers: Buffers::default(), engine };
            let mut queue = Queue::new(16, [0, 0x1000, 0x2000], false, &memory).unwrap();
            let write = if kind == 0 { 2u64 << 32 } else { 0 };
            let chain =
                [0x8000u64, 16 | 1 << 32 | 1 << 48, 0x9000, 512 | write | 1 << 32 | 2 << 48];
            memory.write_obj(chain, GuestAddress(0)).unwrap();
            memory.write_obj([0xa000u64, 1 | 2 << 32], GuestAddress(32)).unwrap();
            memory.write_obj([kind, 0, 0, 0], GuestAddress(0x8000)).unwrap();
            memory.write_obj(0xffu8, GuestAddress(0xa000)).unwrap();
            memory.write_obj([0u16, 1, 0], GuestAddress(0x1000)).unwrap();
            assert!(!block.process(&mut queue).unwrap(), "done at once");
            assert!(block.engine.as_ref().is_some_and(Engine::waits));
            match kind {
                0 => to.write_all(&[5; 512]).unwrap(),
                _ => from.read_exact(&mut [0; 65536]).unwrap(),
            }
            assert!(block.quiesce(&mut queue).unwrap(), "no interrupt");
            assert_eq!(memory.read_obj::<u8>(GuestAddress(0xa000)).unwrap(), Status::Ok as u8);
            let byte = memory.read_obj::<u8>(GuestAddress(0x91ff)).unwrap();
            assert_eq!(byte, if kind == 0 { 5 } else { 0 });
            assert_eq!(queue.positions(), [1, 1]);
        }
    }
}
