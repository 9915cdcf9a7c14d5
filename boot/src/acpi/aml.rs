//! A small encoder for AML (ACPI 6.5, chapter 20) into a slice.
//!
//! An object whose length comes first is written body first; then the body is moved up by the size
//! of its head, so that every length has its shortest form. The bodies are tens of bytes.

/// A name segment: four characters.
pub(super) type Name = [u8; 4];

const NAME_OP: u8 = 0x08;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;
const STRING_PREFIX: u8 = 0x0d;
const SCOPE_OP: u8 = 0x10;
const BUFFER_OP: u8 = 0x11;
const PACKAGE_OP: u8 = 0x12;
const METHOD_OP: u8 = 0x14;
const ARG0_OP: u8 = 0x68;
const NOTIFY_OP: u8 = 0x86;
const LEQUAL_OP: u8 = 0x93;
const IF_OP: u8 = 0xa0;
const EXT_DEVICE_OP: [u8; 2] = [0x5b, 0x82];

/// Encoder state. Once something does not fit, nothing more is written and [`Aml::finish`] tells.
pub(super) struct Aml<'a> {
    out: &'a mut [u8],
    len: usize,
    full: bool,
}

impl<'a> Aml<'a> {
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        Aml { out, len: 0, full: false }
    }

    /// Number of bytes written; `None` if they did not fit.
    pub(super) fn finish(self) -> Option<usize> {
        (!self.full).then_some(self.len)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.insert(self.len, bytes);
    }

    fn insert(&mut self, at: usize, bytes: &[u8]) {
        let len = self.len + bytes.len();
        if self.full || len > self.out.len() || at > self.len {
            self.full = true;
            return;
        }
        self.out.copy_within(at..self.len, at + bytes.len());
        self.out[at..at + bytes.len()].copy_from_slice(bytes);
        self.len = len;
    }

    /// An object of the form `op PkgLength body` (20.2.4).
    fn package(&mut self, op: &[u8], body: impl FnOnce(&mut Self)) {
        self.bytes(op);
        let at = self.len;
        body(self);
        self.close(at);
    }

    /// Puts the length of what was written since `at` before it.
    // Once for all packages.
    #[inline(never)]
    fn close(&mut self, at: usize) {
        let body = self.len - at;
        match body {
            0..=0x3e => self.insert(at, &[body as u8 + 1]),
            0x3f..=0xffd => {
                let len = body + 2;
                self.insert(at, &[1 << 6 | (len & 0xf) as u8, (len >> 4) as u8]);
            }
            _ => {
                let len = body + 3;
                let lead = 2 << 6 | (len & 0xf) as u8;
                self.insert(at, &[lead, (len >> 4) as u8, (len >> 12) as u8]);
                // 20 bits: more than the tables' whole block.
                self.full |= len > 0xf_ffff;
            }
        }
    }

    /// `Scope (name) { body }`
    pub(super) fn scope(&mut self, name: &Name, body: impl FnOnce(&mut Self)) {
        self.package(&[SCOPE_OP], |aml| {
            aml.bytes(name);
            body(aml);
        });
    }

    /// `Device (name) { body }`
    pub(super) fn device(&mut self, name: &Name, body: impl FnOnce(&mut Self)) {
        self.package(&EXT_DEVICE_OP, |aml| {
            aml.bytes(name);
            body(aml);
        });
    }

    /// `Method (name, arguments, NotSerialized) { body }`
    pub(super) fn method(&mut self, name: &Name, arguments: u8, body: impl FnOnce(&mut Self)) {
        self.package(&[METHOD_OP], |aml| {
            aml.bytes(name);
            aml.bytes(&[arguments]);
            body(aml);
        });
    }

    /// `If (Arg0 == value) { Notify (device, code) }`
    pub(super) fn notify_if(&mut self, value: u32, device: &Name, code: u8) {
        self.package(&[IF_OP], |aml| {
            aml.bytes(&[LEQUAL_OP, ARG0_OP]);
            aml.integer(value);
            aml.bytes(&[NOTIFY_OP]);
            aml.bytes(device);
            aml.integer(code.into());
        });
    }

    /// `Name (name, Package () { elements })`, the elements being below 256.
    pub(super) fn name_package(&mut self, name: &Name, elements: &[u8]) {
        self.name(name);
        self.package(&[PACKAGE_OP], |aml| {
            aml.bytes(&[elements.len() as u8]);
            for element in elements {
                aml.integer((*element).into());
            }
        });
    }

    /// `Name (name, integer)`
    pub(super) fn name_integer(&mut self, name: &Name, value: u32) {
        self.name(name);
        self.integer(value);
    }

    /// `Name (name, "string")`
    pub(super) fn name_string(&mut self, name: &Name, value: &str) {
        self.name(name);
        self.bytes(&[STRING_PREFIX]);
        self.bytes(value.as_bytes());
        self.bytes(&[0]);
    }

    /// `Name (name, EisaId ("id"))`
    pub(super) fn name_eisa_id(&mut self, name: &Name, id: &[u8; 7]) {
        self.name_integer(name, eisa_id(id));
    }

    /// `Name (name, ResourceTemplate () { resources })`, with the end tag (6.4.2.9) added.
    pub(super) fn name_resources(&mut self, name: &Name, resources: impl FnOnce(&mut Self)) {
        self.name(name);
        self.package(&[BUFFER_OP], |aml| {
            let at = aml.len;
            resources(aml);
            aml.bytes(&[0x79, 0]);
            let size = (aml.len - at) as u32;
            let (head, len) = integer(size);
            aml.insert(at, head.get(..len).unwrap_or_default());
        });
    }

    fn name(&mut self, name: &Name) {
        self.bytes(&[NAME_OP]);
        self.bytes(name);
    }

    fn integer(&mut self, value: u32) {
        let (bytes, len) = integer(value);
        self.bytes(bytes.get(..len).unwrap_or_default());
    }
}

/// The shortest form of an integer and its length (20.2.3).
fn integer(value: u32) -> ([u8; 5], usize) {
    let [a, b, c, d] = value.to_le_bytes();
    match value {
        // ZeroOp and OneOp are the bytes 0 and 1.
        0..=1 => ([a, 0, 0, 0, 0], 1),
        2..=0xff => ([BYTE_PREFIX, a, 0, 0, 0], 2),
        0x100..=0xffff => ([WORD_PREFIX, a, b, 0, 0], 3),
        _ => ([DWORD_PREFIX, a, b, c, d], 5),
    }
}

/// A compressed EISA id (20.3, `EISAID`): three letters of 5 bits and four hex digits, big endian.
const fn eisa_id(id: &[u8; 7]) -> u32 {
    let mut value = 0;
    let mut at = 0;
    while at < 3 {
        value = value << 5 | (id[at] as u32 & 0x1f);
        at += 1;
    }
    while at < 7 {
        let digit = if id[at] <= b'9' { id[at] - b'0' } else { id[at] - b'A' + 10 };
        value = value << 4 | digit as u32;
        at += 1;
    }
    value.swap_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn encode(room: usize, f: impl FnOnce(&mut Aml<'_>)) -> Option<Vec<u8>> {
        let mut out = vec![0; room];
        let mut aml = Aml::new(&mut out);
        f(&mut aml);
        let len = aml.finish()?;
        out.truncate(len);
        Some(out)
    }

    #[test]
    fn eisa_ids_are_those_of_the_specification() {
        assert_eq!(eisa_id(b"PNP0501"), 0x0105_d041);
        assert_eq!(eisa_id(b"PNP0A08"), 0x080a_d041);
    }

    #[test]
    fn integers_are_short() {
        for (value, bytes) in [
            (0, &[0][..]),
            (1, &[1]),
            (2, &[0x0a, 2]),
            (0x1234, &[0x0b, 0x34, 0x12]),
            (0x1234_5678, &[0x0c, 0x78, 0x56, 0x34, 0x12]),
        ] {
            assert_eq!(encode(8, |aml| aml.integer(value)).unwrap(), bytes);
        }
    }

    #[test]
    fn lengths_change_form_at_the_right_sizes() {
        for (body, head) in [
            (0x3e, &[0x3f][..]),
            (0x3f, &[0x41, 0x04]),
            (0xffd, &[0x4f, 0xff]),
            (0xffe, &[0x81, 0x00, 0x01]),
        ] {
            let bytes = encode(0x2000, |aml| aml.package(&[0xaa], |aml| aml.bytes(&vec![7; body])));
            let bytes = bytes.unwrap();
            assert_eq!(&bytes[1..1 + head.len()], head, "{body:#x}");
            assert_eq!(bytes.len(), 1 + head.len() + body);
            assert!(bytes[1 + head.len()..].iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn tells_when_full() {
        let device = |aml: &mut Aml<'_>| {
            aml.device(b"DEV0", |aml| aml.name_integer(b"_UID", 7));
        };
        let whole = encode(100, device).unwrap();
        assert_eq!(encode(whole.len(), device), Some(whole.clone()));
        for room in 0..whole.len() {
            assert_eq!(encode(room, device), None);
        }
    }
}
