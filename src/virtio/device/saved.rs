//! A device's state into a snapshot, and out of one: what every kind has. What one has besides, its
//! backend tells.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use brisk_devices::virtio::{Saved, State};
use vm_memory::GuestMemoryMmap;
use zerocopy::little_endian::{I64, U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::VirtioDevice;
use crate::error::{Error, Result};
use crate::events::{self, Events};
use crate::interrupts::Sink;
use crate::snapshot::parts::{Kind, Parts, Writer};
use crate::virtio::table::each;
use crate::virtio::{Backend, Devices};

/// By what an image is known to be the same still.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
struct ImageState {
    len: U64,
    modified: I64,
    modified_ns: I64,
}

impl ImageState {
    fn of(file: &File) -> io::Result<ImageState> {
        // By the call that takes no path: it is made while the guest runs.
        // SAFETY: an all-zero structure is one, which the kernel fills.
        let stat = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::syscall(libc::SYS_fstat, file.as_raw_fd(), &raw mut stat) != 0 {
                return Err(io::Error::last_os_error());
            }
            stat
        };
        Ok(ImageState {
            len: U64::new(stat.st_size as u64),
            modified: I64::new(stat.st_mtime),
            modified_ns: I64::new(stat.st_mtime_nsec),
        })
    }
}

impl<B: Backend, const Q: usize> VirtioDevice<B, Q> {
    fn waits(&mut self) -> bool {
        self.lanes.iter_mut().any(|lane| lane.lock().backend.waits())
    }

    fn private(&mut self) -> Option<(usize, usize)> {
        self.lanes.first_mut()?.lock().backend.private()
    }

    /// The image as it is now, where there is one.
    fn image(&mut self) -> Option<io::Result<ImageState>> {
        self.lanes.first_mut()?.lock().backend.image().map(ImageState::of)
    }

    fn save(&mut self, index: usize, to: &mut Writer) {
        let common: &State = &self.common;
        to.add(Kind::Virtio, index, common.save(&self.model).as_bytes());
        let mut positions = [[U16::ZERO; 2]; Q];
        for (at, lane) in positions.iter_mut().zip(&mut self.lanes) {
            if let Some(queue) = &lane.lock().queue {
                *at = queue.positions().map(U16::new);
            }
        }
        to.add(Kind::Queues, index, positions.as_bytes());
        if let Some(lane) = self.lanes.first_mut() {
            lane.lock().backend.save(index, to);
        }
        if let Some(Ok(state)) = self.image() {
            to.add(Kind::Image, index, state.as_bytes());
        }
    }

    fn restore(&mut self, index: usize, from: &Parts<'_>, memory: &GuestMemoryMmap) -> Result<()> {
        if let Some(now) = self.image() {
            check(now, self.private().is_some(), index, from)?;
        }
        let common: &mut State = &mut self.common;
        let saved: Saved = from.read(Kind::Virtio, index)?;
        common.restore(&mut self.model, &saved).map_err(|_| from.wrong(Kind::Virtio, index))?;
        if let Some(lane) = self.lanes.first_mut() {
            lane.lock().backend.restore(index, from)?;
        }
        if !self.common.active() {
            return Ok(());
        }
        let positions: [[U16; 2]; Q] = from.read(Kind::Queues, index)?;
        match self.start(memory, &positions.map(|at| at.map(U16::get))) {
            true => Err(from.wrong(Kind::Queues, index).into()),
            false => Ok(()),
        }
    }
}

/// Whether the image of device `index`, which is `now` like this, is the one that was saved, and what the guest
/// writes goes where it went, `private` or not. (Not within its caller, of which there is one for each kind of
/// device.)
#[inline(never)]
fn check(now: io::Result<ImageState>, private: bool, index: usize, from: &Parts<'_>) -> Result<()> {
    // To an image that lacks what the guest wrote before, it would write what does not go with it.
    if private != from.get(Kind::PrivatePages, index).is_ok() {
        return Err(Error::failed(format!(
            "--restore: discard_writes of virtio device {index} is as it was when the snapshot was taken; \
             give it as then"
        )));
    }
    let was: ImageState = from.read(Kind::Image, index)?;
    // Of another length it is another device: behind a pmem are the next one's addresses.
    let fits = now.as_ref().is_ok_and(|now| now.len == was.len);
    if fits && (from.any_images || now.is_ok_and(|now| now == was)) {
        return Ok(());
    }
    let (is, or) = match fits {
        true => (
            "is not what it was",
            ", or allow any of its length by --restore source_url=DIR,images=any",
        ),
        false => ("has not the length that it had", ""),
    };
    Err(Error::failed(format!(
        "--restore: the image of virtio device {index} {is} when the snapshot was taken; give that one{or}"
    )))
}

impl Devices {
    /// Memory that is a device's private mapping: the device's number, where it begins, and its length in
    /// bytes.
    pub fn private(&mut self) -> Vec<(usize, usize, usize)> {
        let slots = self.slots.iter_mut().enumerate();
        let private = slots.filter_map(|(index, slot)| {
            let (start, len) = each!(slot, device => device.private())?;
            Some((index, start, len))
        });
        private.collect()
    }

    /// Saves all devices, when what they have on its way is done; `sink` gets what they say to their
    /// drivers of that.
    pub fn save(&mut self, to: &mut Writer, sink: &mut impl Sink) {
        for index in 0..self.slots.len() {
            while each!(&mut self.slots[index], device => device.waits()) {
                // The vCPUs stand still, so nothing new comes.
                let polled = self.poll(Events::device(index), sink);
                for job in polled.jobs {
                    let _ = self.finish(job.run(), sink);
                }
                std::thread::yield_now();
            }
        }
        if let Some(pci) = &mut self.pci {
            pci.save(to);
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            each!(slot, device => device.save(index, to));
        }
    }

    /// Makes these new devices what those were.
    ///
    /// # Errors
    /// They are not the same kinds of devices, or their state is none.
    pub fn restore(&mut self, from: &Parts<'_>) -> Result<()> {
        let here = self.slots.len();
        let then = (0..).take_while(|&index| from.get(Kind::Virtio, index).is_ok()).count();
        // The guest would wait for ever for what is not there.
        if then != here {
            return Err(Error::failed(format!(
                "--restore: the snapshot was taken with {then} virtio devices, and {here} are given; give \
                 the same"
            )));
        }
        if let Some(pci) = &mut self.pci {
            pci.restore(from)?;
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            each!(slot, device => device.restore(index, from, self.memory)?);
        }
        // A terminal may have another size than that one had.
        events::expect(Events::WINDOW);
        Ok(())
    }
}
