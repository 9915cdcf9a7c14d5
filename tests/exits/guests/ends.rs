//! Guests that end, or do not: what halts, crashes, resets and switches off.

use crate::common::kernel::{BASE, Bits, Code};

/// As [`super::ALL`].
pub const ALL: &[(&str, Code, Bits, u64)] = &[
    ("HLT", HLT, Bits::B32, BASE),
    ("SPIN", SPIN, Bits::B32, BASE),
    ("UD2", UD2, Bits::B32, BASE),
    ("PRINT_AND_UD2", PRINT_AND_UD2, Bits::B32, BASE),
    ("INT3", INT3, Bits::B32, BASE),
    ("RESET", RESET, Bits::B32, BASE),
    ("RESET_CONTROL", RESET_CONTROL, Bits::B32, BASE),
    ("PANIC", PANIC, Bits::B32, BASE),
    ("KEYBOARD", KEYBOARD, Bits::B32, BASE),
    ("TRIPLE_RESET", TRIPLE_RESET, Bits::B32, BASE),
    ("TRIPLE_PANIC", TRIPLE_PANIC, Bits::B32, BASE),
    ("NOT_OFF", NOT_OFF, Bits::B32, BASE),
];

/// Says that it is there, then waits for an interrupt that never comes.
pub const HLT: Code = &[
    (&[0x66, 0xba, 0xf8, 0x03], "mov dx,0x3f8"),
    (&[0xb0, 0x0a], "mov al,0xa"),
    (&[0xee], "out dx,al"),
    (&[0xf4], "hlt"),
    (&[0xeb, 0xfd], "jmp 0x100007"),
];

/// Says that it is there, then runs without end and without exits.
pub const SPIN: Code = &[
    (&[0x66, 0xba, 0xf8, 0x03], "mov dx,0x3f8"),
    (&[0xb0, 0x0a], "mov al,0xa"),
    (&[0xee], "out dx,al"),
    (&[0xeb, 0xfe], "jmp 0x100007"),
];

/// An exception with no table to handle it, twice more: shutdown.
pub const UD2: Code = &[(&[0x0f, 0x0b], "ud2")];

/// The same, with a line on the serial port before.
pub const PRINT_AND_UD2: Code = &[
    (&[0x66, 0xba, 0xf8, 0x03], "mov dx,0x3f8"),
    (&[0xb0, 0x0a], "mov al,0xa"),
    (&[0xee], "out dx,al"),
    (&[0x0f, 0x0b], "ud2"),
];

/// On a KVM of the PVM kind its emulator gives up (internal error); elsewhere a triple fault.
pub const INT3: Code = &[(&[0xcc], "int3")];

/// The reset register.
pub const RESET: Code = &[
    (&[0x66, 0xba, 0x04, 0x06], "mov dx,0x604"),
    (&[0xb0, 0x01], "mov al,0x1"),
    (&[0xee], "out dx,al"),
    (&[0xf4], "hlt"),
];

/// The reset control register as Linux writes it (`BOOT_CF9_FORCE`): the kind of reset, which does
/// nothing yet, and then the reset. A write of 4 bytes beside it is PCI's and is none.
pub const RESET_CONTROL: Code = &[
    (&[0x66, 0xba, 0xf8, 0x0c], "mov dx,0xcf8"),
    (&[0x83, 0xc8, 0xff], "or eax,0xffffffff"),
    (&[0xef], "out dx,eax"),
    (&[0x66, 0xba, 0xf9, 0x0c], "mov dx,0xcf9"),
    (&[0xb0, 0xf3], "mov al,0xf3"),
    (&[0xee], "out dx,al"),
    (&[0xb0, 0xff], "mov al,0xff"),
    (&[0xee], "out dx,al"),
    (&[0xf4], "hlt"),
];

/// Linux' mark of a warm reset, then the reset: with our defaults, a panic.
pub const PANIC: Code = &[
    (&[0x66, 0xc7, 0x05, 0x72, 0x04, 0x00, 0x00, 0x34, 0x12], "mov WORD PTR ds:0x472,0x1234"),
    (&[0x66, 0xba, 0x04, 0x06], "mov dx,0x604"),
    (&[0xb0, 0x01], "mov al,0x1"),
    (&[0xee], "out dx,al"),
    (&[0xf4], "hlt"),
];

/// Looks at the keyboard controller's status, gives it a command that it does not know, then the reset.
pub const KEYBOARD: Code = &[
    (&[0xe4, 0x64], "in al,0x64"),
    (&[0xe6, 0x80], "out 0x80,al"),
    (&[0xb0, 0xed], "mov al,0xed"),
    (&[0xe6, 0x64], "out 0x64,al"),
    (&[0xb0, 0x81], "mov al,0x81"),
    (&[0xe6, 0x80], "out 0x80,al"),
    (&[0xb0, 0xfe], "mov al,0xfe"),
    (&[0xe6, 0x64], "out 0x64,al"),
    (&[0xf4], "hlt"),
];

/// Linux' mark of a cold reset, then a triple fault: `reboot=t`.
pub const TRIPLE_RESET: Code = &[
    (&[0x66, 0xc7, 0x05, 0x72, 0x04, 0x00, 0x00, 0x00, 0x00], "mov WORD PTR ds:0x472,0x0"),
    (&[0x0f, 0x0b], "ud2"),
];

/// The mark of a warm reset, then a triple fault: with our defaults, a panic.
pub const TRIPLE_PANIC: Code = &[
    (&[0x66, 0xc7, 0x05, 0x72, 0x04, 0x00, 0x00, 0x34, 0x12], "mov WORD PTR ds:0x472,0x1234"),
    (&[0x0f, 0x0b], "ud2"),
];

/// What does not end the VM: S5 without SLP_EN, S3, another reset value, the sleep status register.
pub const NOT_OFF: Code = &[
    (&[0x66, 0xba, 0x00, 0x06], "mov dx,0x600"),
    (&[0xb0, 0x14], "mov al,0x14"),
    (&[0xee], "out dx,al"),
    (&[0xb0, 0x2c], "mov al,0x2c"),
    (&[0xee], "out dx,al"),
    (&[0x66, 0xba, 0x04, 0x06], "mov dx,0x604"),
    (&[0xb0, 0xfe], "mov al,0xfe"),
    (&[0xee], "out dx,al"),
    (&[0x66, 0xba, 0x01, 0x06], "mov dx,0x601"),
    (&[0xb0, 0x34], "mov al,0x34"),
    (&[0xee], "out dx,al"),
    (&[0xb0, 0x81], "mov al,0x81"),
    (&[0xe6, 0x80], "out 0x80,al"),
    (&[0x66, 0xba, 0x00, 0x06], "mov dx,0x600"),
    (&[0xb0, 0x34], "mov al,0x34"),
    (&[0xee], "out dx,al"),
];
