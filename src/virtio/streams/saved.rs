//! Where a workload's streams are, into a snapshot and out of one. A clone's own go on where its original's
//! were: what that had read is the guest's, what it had still to write is the original's.

use brisk_devices::streams::Saved as Place;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Streams, wire};
use crate::events::{self, Events};
use crate::snapshot::parts::{Kind, Parts, Writer, Wrong};

/// What is saved before the frames that wait for the guest.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct Saved {
    frames: Place,
    /// Bytes of input that the guest has room for.
    room: U32,
    outputs: [SavedSink; 2],
    ready: u8,
    end_told: u8,
    zero: [u8; 2],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct SavedSink {
    /// Bytes that the guest is to be told of.
    taken: U32,
    ended: u8,
    zero: [u8; 3],
}

impl Streams {
    pub(super) fn save(&self, index: usize, to: &mut Writer) {
        let saved = Saved {
            frames: self.frames.save(),
            room: U32::new(self.room as u32),
            outputs: self.outputs.each_ref().map(|sink| SavedSink {
                taken: U32::new((sink.taken + sink.pending.len()) as u32),
                ended: sink.ended.into(),
                zero: [0; 3],
            }),
            ready: self.ready.into(),
            end_told: self.end_told.into(),
            zero: [0; 2],
        };
        let (front, back) = self.waiting.as_slices();
        to.add(Kind::Streams, index, &[saved.as_bytes(), front, back].concat());
    }

    pub(super) fn restore(&mut self, index: usize, from: &Parts<'_>) -> Result<(), Wrong> {
        let wrong = || from.wrong(Kind::Streams, index);
        let bytes = from.get(Kind::Streams, index)?;
        let (saved, waiting) = Saved::read_from_prefix(bytes).map_err(|_| wrong())?;
        self.frames.restore(&saved.frames).map_err(|_| wrong())?;
        self.room = wire::WINDOW.min(saved.room.get() as usize);
        self.waiting.extend(waiting);
        self.end_told = saved.end_told != 0;
        for (sink, saved) in self.outputs.iter_mut().zip(&saved.outputs) {
            sink.taken = saved.taken.get() as usize;
            if saved.ended != 0 {
                sink.end();
            }
        }
        if saved.ready != 0 {
            self.ready = true;
            events::forward(true);
            // For what waits, and for input that may be there already.
            events::expect(Events::INPUT);
        }
        Ok(())
    }
}
