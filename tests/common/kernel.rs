//! Kernels of a few instructions: bytes with their disassembly, and the ELF file around them.

use std::process::{Command, Stdio};

/// Where the first instruction is.
pub const BASE: u64 = 0x10_0000;
/// Where the data is that comes with the instructions; the rest up to [`END`] is free memory.
pub const DATA: u64 = BASE + 0x1000;
/// The end of the kernel's memory.
pub const END: u64 = BASE + 0x1_0000;
/// The most that an ELF file here has of headers.
const HEADERS: usize = 0x200;
const NOTE_AT: usize = 0x1c0;

/// Instructions: bytes, and what `objdump -M intel` says of them.
pub type Code = &'static [(&'static [u8], &'static str)];

/// How the CPU reads the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// Real mode.
    B16,
    /// Flat protected mode, as PVH enters a kernel.
    B32,
    /// Long mode, as the 64-bit Linux protocol enters a kernel.
    B64,
}

/// The instructions' bytes.
pub fn bytes(code: Code) -> Vec<u8> {
    code.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect()
}

/// Checks the disassembly beside the bytes against `objdump`, which is there wherever Rust can link.
///
/// # Panics
/// They differ.
pub fn check_disassembly(name: &str, code: Code, bits: Bits, base: u64) {
    let scratch = super::Scratch::new();
    let machine = match bits {
        Bits::B16 => "i8086",
        Bits::B32 => "i386",
        Bits::B64 => "i386:x86-64",
    };
    let file = scratch.file("code", bytes(code));
    let output = Command::new("objdump")
        .args(["-D", "-b", "binary", "-M", "intel", "--insn-width=16", "-m", machine])
        .arg(format!("--adjust-vma={base:#x}"))
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .expect("objdump of package binutils can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "  100000:\te6 80 \tout    0x80,al"
    let found: Vec<String> = text
        .lines()
        .filter_map(|line| line.splitn(3, '\t').nth(2))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let wanted: Vec<&str> = code.iter().map(|(_, text)| *text).collect();
    assert_eq!(found, wanted, "{name}");
}

/// A program header's worth of an ELF file.
#[derive(Clone)]
pub struct Segment {
    /// Guest-physical address.
    pub paddr: u64,
    /// What comes from the file.
    pub bytes: Vec<u8>,
    /// Bytes in memory.
    pub mem_size: u64,
}

/// An ELF file.
#[derive(Clone)]
pub struct Elf {
    /// `e_machine`; 62 is x86-64.
    pub machine: u16,
    /// `e_ident[EI_CLASS]`; 2 is 64-bit.
    pub class: u8,
    /// `e_ident[EI_DATA]`; 1 is little endian.
    pub data: u8,
    /// `e_type`; 2 is an executable.
    pub kind: u16,
    /// `e_entry`.
    pub entry: u64,
    /// The address in the Xen note, by which PVH enters.
    pub pvh: Option<u32>,
    /// Whether a note says that it is Linux.
    pub linux: bool,
    /// Whether the program headers are the last of the file.
    pub headers_last: bool,
    /// What to load.
    pub segments: Vec<Segment>,
}

impl Elf {
    /// A kernel of these instructions, with `data` at [`DATA`]; PVH enters it in 32-bit mode.
    pub fn new(code: Code, data: &[u8]) -> Elf {
        let mut bytes = bytes(code);
        assert!(bytes.len() <= (DATA - BASE) as usize);
        if !data.is_empty() {
            bytes.resize((DATA - BASE) as usize, 0);
            bytes.extend_from_slice(data);
        }
        Elf {
            machine: 62,
            class: 2,
            data: 1,
            kind: 2,
            entry: BASE,
            pvh: Some(BASE as u32),
            linux: false,
            headers_last: false,
            segments: vec![Segment { paddr: BASE, bytes, mem_size: END - BASE }],
        }
    }

    /// The same with Linux's note, so that the 64-bit Linux protocol enters it in long mode.
    pub fn linux64(self) -> Elf {
        Elf { pvh: None, linux: true, ..self }
    }

    /// The same as a 32-bit file, entered by PVH.
    pub fn elf32(self) -> Elf {
        Elf { machine: 3, class: 1, ..self }
    }

    /// The file: headers, note, segments; or, with [`Self::headers_last`], the program headers behind.
    pub fn file(&self) -> Vec<u8> {
        let mut note = Vec::new();
        if let Some(entry) = self.pvh {
            push32(&mut note, &[4, 4, 18]); // XEN_ELFNOTE_PHYS32_ENTRY
            note.extend(*b"Xen\0");
            push32(&mut note, &[entry]);
        }
        if self.linux {
            push32(&mut note, &[6, 4, 257]); // LINUX_ELFNOTE_LTO_INFO
            note.extend(*b"Linux\0\0\0");
            push32(&mut note, &[0]);
        }
        // Kind, offset, address, bytes in the file and in memory, flags, alignment.
        let mut programs = Vec::new();
        let mut offset = HEADERS as u64;
        for Segment { paddr, bytes, mem_size } in &self.segments {
            let size = bytes.len() as u64;
            programs.push([1, offset, *paddr, size, *mem_size, 7, 0x1000]); // PT_LOAD, rwx
            offset += size;
        }
        if !note.is_empty() {
            let size = note.len() as u64;
            programs.push([4, NOTE_AT as u64, 0, size, size, 4, 4]); // PT_NOTE, r
        }
        let (header, program) = if self.class == 1 { (52, 32) } else { (64, 56) };
        let table = if self.headers_last { offset } else { header };

        let mut file = Vec::from(*b"\x7fELF");
        file.extend([self.class, self.data, 1, 0]);
        file.extend([0; 8]);
        push16(&mut file, &[self.kind, self.machine]);
        push32(&mut file, &[1]);
        self.push_words(&mut file, &[self.entry, table, 0]);
        push32(&mut file, &[0]);
        push16(&mut file, &[header as u16, program, programs.len() as u16, 0, 0, 0]);
        if !self.headers_last {
            self.push_programs(&mut file, &programs);
        }
        assert!(file.len() <= NOTE_AT);
        file.resize(NOTE_AT, 0);
        file.extend(note);
        assert!(file.len() <= HEADERS);
        file.resize(HEADERS, 0);
        self.segments.iter().for_each(|segment| file.extend(&segment.bytes));
        if self.headers_last {
            self.push_programs(&mut file, &programs);
        }
        file
    }

    fn push_programs(&self, file: &mut Vec<u8>, programs: &[[u64; 7]]) {
        for &[kind, offset, paddr, size, mem_size, flags, align] in programs {
            push32(file, &[kind as u32]);
            if self.class == 1 {
                self.push_words(file, &[offset, paddr, paddr, size, mem_size, flags, align]);
            } else {
                push32(file, &[flags as u32]);
                self.push_words(file, &[offset, paddr, paddr, size, mem_size, align]);
            }
        }
    }

    /// Addresses and sizes, as wide as the class has them.
    fn push_words(&self, file: &mut Vec<u8>, words: &[u64]) {
        match self.class {
            1 => words.iter().for_each(|word| file.extend((*word as u32).to_le_bytes())),
            _ => push64(file, words),
        }
    }
}

fn push16(to: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|value| to.extend(value.to_le_bytes()));
}

fn push32(to: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|value| to.extend(value.to_le_bytes()));
}

fn push64(to: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|value| to.extend(value.to_le_bytes()));
}
