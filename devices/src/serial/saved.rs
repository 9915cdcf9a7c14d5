//! The UART's state as bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{FCR_ENABLE, FCR_TRIGGER, FIFO, IER_ALL, MCR_ALL, Serial};
use crate::snapshot::{Invalid, check, flag};

/// A [`Serial`]'s state.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Saved {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    divisor: [u8; 2],
    msr: u8,
    overrun: u8,
    tx_pending: u8,
    received: u8,
    zero: u8,
    fifo: [u8; FIFO],
}

impl Serial {
    /// The state as it is now.
    pub fn save(&self) -> Saved {
        let mut fifo = [0; FIFO];
        for (to, from) in fifo.iter_mut().zip(&self.rx) {
            *to = *from;
        }
        Saved {
            ier: self.ier,
            fcr: self.fcr,
            lcr: self.lcr,
            mcr: self.mcr,
            scratch: self.scratch,
            divisor: self.divisor,
            msr: self.msr,
            overrun: self.overrun.into(),
            tx_pending: self.tx_pending.into(),
            received: self.rx.len() as u8,
            zero: 0,
            fifo,
        }
    }

    /// Takes over a state.
    ///
    /// # Errors
    /// It is none.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), Invalid> {
        check(saved.ier & !IER_ALL == 0 && saved.mcr & !MCR_ALL == 0 && saved.zero == 0)?;
        check(saved.fcr & !(FCR_ENABLE | FCR_TRIGGER) == 0)?;
        check(saved.fcr == 0 || saved.fcr & FCR_ENABLE != 0)?;
        (self.ier, self.fcr, self.lcr, self.mcr) = (saved.ier, saved.fcr, saved.lcr, saved.mcr);
        (self.scratch, self.divisor, self.msr) = (saved.scratch, saved.divisor, saved.msr);
        (self.overrun, self.tx_pending) = (flag(saved.overrun)?, flag(saved.tx_pending)?);
        let (received, rest) = saved.fifo.split_at_checked(saved.received.into()).ok_or(Invalid)?;
        check(rest.iter().all(|&byte| byte == 0))?;
        self.rx.clear();
        received.iter().try_for_each(|&byte| check(self.push(byte)))
    }
}
