//! The kernel's command line: checking it, and adding defaults that the user did not give.

use core::fmt;

/// `COMMAND_LINE_SIZE` of x86 Linux (`arch/x86/include/asm/setup.h`), with the NUL.
pub const SIZE: usize = 2048;

/// Why a command line cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Longer than [`SIZE`] less the NUL: its bytes.
    TooLong(usize),
    /// A byte that is not printable ASCII.
    Byte {
        /// The byte.
        byte: u8,
        /// Where it is, from 0.
        position: usize,
    },
}

impl core::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::TooLong(len) => {
                write!(f, "command line of {len} bytes: Linux takes at most {}", SIZE - 1)
            }
            Error::Byte { byte, position } => write!(
                f,
                "command line: byte {byte:#04x} at position {position} is not printable ASCII"
            ),
        }
    }
}

/// Checks that Linux takes the line whole: printable ASCII and at most 2047 bytes.
///
/// # Errors
/// [`Error`].
pub fn check(line: &[u8]) -> Result<(), Error> {
    if line.len() >= SIZE {
        return Err(Error::TooLong(line.len()));
    }
    match line.iter().position(|byte| !(0x20..0x7f).contains(byte)) {
        Some(position) => Err(Error::Byte { byte: line[position], position }),
        None => Ok(()),
    }
}

/// Writes to `out` the user's line with each of `defaults` (`key` or `key=value`) whose key the
/// user did not give. What follows a lone `--` is for init, so defaults go before it.
///
/// # Errors
/// [`Error`]: the user's line is not valid, or the result is longer than 2047 bytes.
pub fn with_defaults(
    user: &[u8],
    defaults: &[&str],
    out: &mut heapless::Vec<u8, SIZE>,
) -> Result<(), Error> {
    check(user)?;
    let (kernel, init) = split(user);
    out.clear();
    let mut len = 0;
    let mut push = |bytes: &[u8]| {
        len += bytes.len();
        // A failure shows in `len`, so that the error can tell the whole length.
        let _ = out.extend_from_slice(bytes);
    };
    let kernel_text = kernel.trim_ascii_end();
    push(kernel_text);
    let mut empty = kernel_text.is_empty();
    for some in defaults.chunks(64) {
        // A bit for each: the line is gone through once for all.
        let mut given = 0u64;
        for word in Words(kernel, 0) {
            let name = key(word.text);
            for (at, default) in some.iter().enumerate() {
                given |= u64::from(same_key(name, key(default.as_bytes()))) << at;
            }
        }
        for (_, default) in some.iter().enumerate().filter(|(at, _)| given & 1 << at == 0) {
            if !empty {
                push(b" ");
            }
            push(default.as_bytes());
            empty = false;
        }
    }
    if !init.is_empty() {
        if !empty {
            push(b" ");
        }
        push(init);
    }
    if len >= SIZE { Err(Error::TooLong(len)) } else { check(out) }
}

/// Whether the line has `word` among what is for the kernel.
pub fn has(line: &[u8], word: &[u8]) -> bool {
    Words(line, 0).take_while(|other| other.text != b"--").any(|other| other.text == word)
}

/// What is for the kernel, and what is for init: all from a lone `--` on.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let init = Words(line, 0).find(|word| word.text == b"--");
    line.split_at(init.map_or(line.len(), |word| word.start))
}

/// The part of a word before `=`; a quote around the whole word does not count (as in the kernel's
/// `next_arg`).
fn key(word: &[u8]) -> &[u8] {
    let word = word.strip_prefix(b"\"").unwrap_or(word);
    let end = word.iter().position(|byte| *byte == b'=').unwrap_or(word.len());
    &word[..end]
}

/// Linux takes `-` and `_` in names as the same (`parameqn`).
fn same_key(a: &[u8], b: &[u8]) -> bool {
    let dash = |byte: &u8| if *byte == b'-' { b'_' } else { *byte };
    a.len() == b.len() && a.iter().map(dash).eq(b.iter().map(dash))
}

struct Word<'a> {
    text: &'a [u8],
    start: usize,
}

/// The words of a line and the position to go on from. A space in double quotes does not separate.
struct Words<'a>(&'a [u8], usize);

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        let Words(line, at) = *self;
        let start = at + line.get(at..)?.iter().position(|byte| *byte != b' ')?;
        let mut quoted = false;
        let len = line[start..].iter().position(|byte| {
            quoted ^= *byte == b'"';
            *byte == b' ' && !quoted
        });
        let end = len.map_or(line.len(), |len| start + len);
        self.1 = end;
        Some(Word { text: &line[start..end], start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec::Vec;

    fn add(user: &str, defaults: &[&str]) -> Result<String, Error> {
        let mut out = heapless::Vec::new();
        with_defaults(user.as_bytes(), defaults, &mut out)?;
        Ok(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn adds_only_what_the_user_did_not_give() {
        let defaults = ["panic=-1", "reboot=t", "nomodule"];
        for (user, line) in [
            ("", "panic=-1 reboot=t nomodule"),
            ("quiet", "quiet panic=-1 reboot=t nomodule"),
            ("panic=5", "panic=5 reboot=t nomodule"),
            ("panic", "panic reboot=t nomodule"),
            ("nomodule reboot=a,b panic=1", "nomodule reboot=a,b panic=1"),
            ("x=\"panic=1 reboot=k\"", "x=\"panic=1 reboot=k\" panic=-1 reboot=t nomodule"),
            ("\"panic=1\"", "\"panic=1\" reboot=t nomodule"),
            ("-- panic=1", "panic=-1 reboot=t nomodule -- panic=1"),
            ("a  -- b", "a panic=-1 reboot=t nomodule -- b"),
            ("a --b", "a --b panic=-1 reboot=t nomodule"),
        ] {
            assert_eq!(add(user, &defaults).unwrap(), line, "{user}");
        }
        assert_eq!(add("tsc-x=1", &["tsc_x=2"]).unwrap(), "tsc-x=1");
        assert_eq!(add("i8042.noaux=0", &["i8042.noaux", "i8042.nomux"]).unwrap(), {
            "i8042.noaux=0 i8042.nomux"
        });
    }

    #[test]
    fn a_repeated_default_is_one_unless_the_user_gave_it() {
        let defaults = ["a.device=1", "a.device=2"];
        assert_eq!(add("b", &defaults).unwrap(), "b a.device=1 a.device=2");
        assert_eq!(add("a.device=3", &defaults).unwrap(), "a.device=3");
    }

    #[test]
    fn there_may_be_any_number_of_defaults() {
        let all: Vec<String> = (0..150).map(|at| std::format!("d{at}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let line = add("d149 d64=x d3", &all).unwrap();
        let mut words: Vec<&str> = line.split(' ').map(key_of).collect();
        assert_eq!((words.len(), &words[..3]), (150, &["d149", "d64", "d3"][..]));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 150);
    }

    fn key_of(word: &str) -> &str {
        word.split('=').next().unwrap()
    }

    #[test]
    fn has_a_word_of_the_kernels() {
        assert!(has(b"quiet acpi=off", b"acpi=off"));
        for line in ["", "acpi=offs", "xacpi=off", "a -- acpi=off", "x=\"y acpi=off\""] {
            assert!(!has(line.as_bytes(), b"acpi=off"), "{line}");
        }
    }

    #[test]
    fn names_what_is_wrong() {
        assert_eq!(check(b"a\tb"), Err(Error::Byte { byte: 9, position: 1 }));
        assert_eq!(check("caf\u{e9}".as_bytes()), Err(Error::Byte { byte: 0xc3, position: 3 }));
        assert_eq!(check(&[b'a'; 2048]), Err(Error::TooLong(2048)));
        assert_eq!(check(&[b'a'; 2047]), Ok(()));
        let long: String = std::iter::repeat_n('a', 2047).collect();
        assert_eq!(add(&long, &[]).unwrap(), long);
        assert_eq!(add(&long, &["quiet"]), Err(Error::TooLong(2053)));
        assert_eq!(add("", &["\n"]), Err(Error::Byte { byte: 10, position: 0 }));
        let text = std::format!("{}", Error::TooLong(2053));
        assert_eq!(text, "command line of 2053 bytes: Linux takes at most 2047");
    }

    proptest! {
        #[test]
        fn is_idempotent_and_keeps_the_users_words(
            user in "[ a-c=\"-]{0,40}",
            defaults in prop::collection::vec("[a-c]{1,2}(=[a-c])?", 0..4),
        ) {
            let defaults: Vec<&str> = defaults.iter().map(String::as_str).collect();
            // With an open quote, a default would become part of the user's last value.
            prop_assume!(user.bytes().filter(|byte| *byte == b'"').count() % 2 == 0);
            let once = add(&user, &defaults).unwrap();
            prop_assert_eq!(&add(&once, &defaults).unwrap(), &once);
            for word in Words(user.as_bytes(), 0) {
                prop_assert!(Words(once.as_bytes(), 0).any(|other| other.text == word.text));
            }
        }

        #[test]
        fn takes_any_bytes(user in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut out = heapless::Vec::new();
            let valid = check(&user).is_ok();
            prop_assert_eq!(with_defaults(&user, &[], &mut out).is_ok(), valid);
        }
    }
}
