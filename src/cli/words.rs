//! The process's arguments as words for argh, which takes `--flag value` in UTF-8 and nothing else:
//! `--flag=value`, several values behind one flag, short flags, values in quotes, and paths of any bytes.
//!
//! A byte that is no text, or that must not mean what it usually does, as a comma in quotes, becomes a
//! character of its own, which [`os_string`] makes the byte again: no reader in between has to know.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::error::{Error, Result};

/// The character for byte 0; private use, and the last of them all (Unicode 16.0, 23.5).
const BYTES: u32 = 0x10_ff00;
/// Flags without a value.
const SWITCHES: &[&str] =
    &["--cmdline-exact", "--exit-status", "--help", "--no-baked", "--timeline"];
/// Flags whose value is one text: no keys, no quotes.
const PLAIN: &[&str] =
    &["--boot-log", "--cmdline", "--initramfs", "--kernel", "--log-level", "--stats", "--trace"];
/// The key that a value without any most likely is for. Those from the third on may be repeated, and take
/// several values.
const FIRST_KEYS: &[(&str, &str)] =
    &[("--memory", "size"), ("--cpus", "boot"), ("--disk", "path"), ("--pmem", "file")];
const REPEATED: usize = 2;

/// What arguments ask for.
pub enum Read {
    /// What argh makes of these words.
    Words(Vec<String>),
    /// The version.
    Version,
    /// What this binary was built with.
    Features,
}

/// Whether a flag may be repeated.
pub fn is_repeated(flag: &str) -> bool {
    FIRST_KEYS[REPEATED..].iter().any(|(name, _)| *name == flag)
}

/// Makes words for argh of `arguments`.
///
/// # Errors
/// A switch with a value, a key given twice, a value without its key, or a quote without its end.
pub fn read(arguments: &mut dyn Iterator<Item = OsString>) -> Result<Read> {
    let mut words = Vec::new();
    let mut verbosity = 0;
    // The flag that further values are for.
    let mut many: Option<String> = None;
    while let Some(word) = arguments.next().map(text) {
        if !word.starts_with('-')
            && let Some(flag) = &many
        {
            let value = keyed(flag, word)?;
            words.extend([flag.clone(), value]);
            continue;
        }
        many = None;
        match &*word {
            "-V" | "--version" => return Ok(Read::Version),
            "--features" => return Ok(Read::Features),
            "-h" => words.push("--help".into()),
            "-v" | "-vv" | "-vvv" => verbosity += word.len() - 1,
            _ if !word.starts_with("--") => words.push(word),
            _ => {
                let (flag, joined) = match word.split_once('=') {
                    Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                    None => (word, None),
                };
                let switch = SWITCHES.contains(&&*flag);
                if let (true, Some(value)) = (switch, &joined) {
                    return Err(Error::usage(format!("{flag}={value}: {flag} takes no value")));
                }
                many = is_repeated(&flag).then(|| flag.clone());
                // One that is missing is argh's to say.
                let value = match switch {
                    true => None,
                    false => joined.or_else(|| arguments.next().map(text)),
                };
                let value = value.map(|value| keyed(&flag, value)).transpose()?;
                words.extend([Some(flag), value].into_iter().flatten());
            }
        }
    }
    if verbosity > 0 {
        let level = ["info", "debug", "trace"][verbosity.min(3) - 1];
        words.extend(["--log-level".into(), level.into()]);
    }
    Ok(Read::Words(words))
}

/// The flags among words that [`read`] made, each with itself and its value: a value may look like a flag.
pub fn flags(words: &[String]) -> Flags<'_> {
    Flags(words)
}

/// See [`flags`].
pub struct Flags<'a>(&'a [String]);

impl<'a> Iterator for Flags<'a> {
    type Item = (&'a str, &'a [String]);

    // Once for all who look for one.
    #[inline(never)]
    fn next(&mut self) -> Option<Self::Item> {
        let flag = self.0.first()?;
        let alone = !flag.starts_with("--") || SWITCHES.contains(&&**flag);
        let (own, others) = self.0.split_at(self.0.len().min(if alone { 1 } else { 2 }));
        self.0 = others;
        Some((flag, own))
    }
}

/// Takes the quotes off a value of `key=value,key=value`, and checks its keys.
fn keyed(flag: &str, value: String) -> Result<String> {
    if PLAIN.contains(&flag) {
        return Ok(value);
    }
    let wrong = |what: &[&str]| Err(Error::usage(format!("{flag} {value}: {}", what.concat())));
    let unquoted = match value.contains('"') {
        true => match without_quotes(&value) {
            None => return wrong(&["a quote without its end"]),
            unquoted => unquoted,
        },
        false => None,
    };
    let bare = unquoted.as_ref().unwrap_or(&value);
    let mut keys: Vec<&[u8]> = Vec::new();
    for part in bare.as_bytes().split(|&byte| byte == b',') {
        let key = part.iter().position(|&byte| byte == b'=').map(|end| &part[..end]);
        if let Some(key) = key {
            if keys.contains(&key) {
                return wrong(&["`", &String::from_utf8_lossy(key), "` is given twice"]);
            }
            keys.push(key);
        } else if keys.is_empty()
            && let Some((_, first)) = FIRST_KEYS.iter().find(|(keyed, _)| *keyed == flag)
        {
            return wrong(&["give ", first, "=", &value]);
        }
    }
    Ok(unquoted.unwrap_or(value))
}

/// What is meant by a value with quotes in it; none where one has no end.
fn without_quotes(value: &str) -> Option<String> {
    let mut bare = String::with_capacity(value.len());
    let (mut quoted, mut last) = (false, '\0');
    for each in value.chars() {
        match each {
            '"' => {
                // Two of them in quotes are one that is meant.
                if last == '"' && !quoted {
                    bare.push('"');
                }
                quoted = !quoted;
            }
            ',' if quoted => bare.push(character(b',')),
            _ => bare.push(each),
        }
        last = each;
    }
    if quoted { None } else { Some(bare) }
}

/// The character for a byte that is no text.
fn character(byte: u8) -> char {
    char::from_u32(BYTES + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn text(argument: OsString) -> String {
    let bytes = match argument.into_string() {
        Ok(text) if is_plain(&text) || text.chars().all(is_text) => return text,
        Ok(text) => text.into_bytes(),
        Err(bytes) => bytes.into_vec(),
    };
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for each in chunk.valid().chars() {
            match is_text(each) {
                true => text.push(each),
                false => text.extend(each.encode_utf8(&mut [0; 4]).bytes().map(character)),
            }
        }
        text.extend(chunk.invalid().iter().copied().map(character));
    }
    text
}

/// Whether no character for a byte can be in it, nor one that looks like it: they all begin with this byte, and
/// what people write does not.
fn is_plain(text: &str) -> bool {
    !text.as_bytes().contains(&0xf4)
}

fn is_text(each: char) -> bool {
    u32::from(each) < BYTES
}

/// What was given as text on the command line, as bytes for the system.
pub fn os_string(text: &str) -> OsString {
    if is_plain(text) {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    for each in text.chars() {
        match u32::from(each).checked_sub(BYTES) {
            Some(byte) => bytes.push(byte as u8),
            None => bytes.extend_from_slice(each.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn words(arguments: &[&str]) -> Vec<String> {
        match read(&mut arguments.iter().map(OsString::from)).unwrap() {
            Read::Words(words) => words,
            _ => panic!("no words: {arguments:?}"),
        }
    }

    fn error(arguments: &[&str]) -> String {
        read(&mut arguments.iter().map(OsString::from)).err().unwrap().to_string()
    }

    #[test]
    fn a_value_may_be_joined_to_its_flag() {
        let wanted = ["--kernel", "k", "--cmdline", "root=/dev/vda a=b", "--cmdline-exact"];
        assert_eq!(
            words(&["--kernel=k", "--cmdline=root=/dev/vda a=b", "--cmdline-exact"]),
            wanted
        );
        assert_eq!(words(&["--cmdline", "--kernel=k"]), ["--cmdline", "--kernel=k"]);
        assert_eq!(words(&["--cmdline="]), ["--cmdline", ""]);
        assert!(error(&["--timeline=on"]).contains("--timeline takes no value"));
        for switch in SWITCHES {
            assert_eq!(words(&[switch, "--kernel=k"]), [*switch, "--kernel", "k"]);
        }
    }

    #[test]
    fn several_values_may_follow_a_flag_that_may_be_repeated() {
        let wanted = ["--disk", "path=a", "--disk", "path=b", "--pmem", "file=c", "--timeline"];
        assert_eq!(words(&["--disk", "path=a", "path=b", "--pmem=file=c", "--timeline"]), wanted);
        // The others take one, and argh says what the second is.
        assert_eq!(words(&["--memory", "size=1G", "x"]), ["--memory", "size=1G", "x"]);
    }

    #[test]
    fn short_flags() {
        assert_eq!(words(&["-h"]), ["--help"]);
        let asked = |words: [&str; 2]| read(&mut words.map(OsString::from).into_iter()).unwrap();
        for version in ["-V", "--version"] {
            assert!(matches!(asked(["--timeline", version]), Read::Version));
        }
        assert!(matches!(asked(["--timeline", "--features"]), Read::Features));
        assert_eq!(words(&["--cmdline", "--version"]), ["--cmdline", "--version"]);
        assert_eq!(words(&["-v"]), ["--log-level", "info"]);
        assert_eq!(words(&["-v", "-v"]), ["--log-level", "debug"]);
        assert_eq!(words(&["-vvv", "-v"]), ["--log-level", "trace"]);
        assert_eq!(words(&["--cmdline", "-v"]), ["--cmdline", "-v"]);
    }

    #[test]
    fn quotes_are_for_commas() {
        let value = |text: &str| os_string(&words(&["--disk", text])[1]).into_string().unwrap();
        assert_eq!(value(r#"path="a,b.img",readonly=on"#), "path=a,b.img,readonly=on");
        assert_eq!(value(r#"path="say ""hello"", world""#), r#"path=say "hello", world"#);
        assert_eq!(value(r#"path="""#), "path=");
        assert_eq!(words(&["--disk", r#"path="a,b""#])[1].split(',').count(), 1);
        // A kernel's parameter has its own.
        assert_eq!(words(&["--cmdline", r#"a="b,c""#])[1], r#"a="b,c""#);
        assert_eq!(words(&["--kernel", r#"a"b"#])[1], r#"a"b"#);
        assert!(error(&["--disk", r#"path="a,b"#]).contains("a quote without its end"));
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        let words =
            words(&["--cmdline", "--stats", "--timeline", "--kernel=--restore", "x", "--trace"]);
        let found: Vec<(&str, usize)> =
            flags(&words).map(|(flag, own)| (flag, own.len())).collect();
        let wanted =
            [("--cmdline", 2), ("--timeline", 1), ("--kernel", 2), ("x", 1), ("--trace", 1)];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_key_is_given_once() {
        assert!(
            error(&["--disk", "path=a,path=b"]).contains("--disk path=a,path=b: `path` is given")
        );
        assert!(error(&["--memory", "size=1G,thp=on,size=2G"]).contains("`size` is given twice"));
        assert!(error(&["--serial=file=a,file=b"]).contains("`file` is given twice"));
        assert_eq!(words(&["--cmdline", "a=1,a=2"]), ["--cmdline", "a=1,a=2"]);
    }

    #[test]
    fn a_value_without_its_key_says_which() {
        assert!(error(&["--memory", "512M"]).contains("--memory 512M: give size=512M"));
        assert!(error(&["--cpus=2"]).contains("--cpus 2: give boot=2"));
        assert!(error(&["--disk", "a.img,readonly=on"]).contains("give path=a.img,readonly=on"));
        assert!(error(&["--pmem", "a.img"]).contains("give file=a.img"));
    }

    #[test]
    fn any_bytes_come_back() {
        for bytes in
            [&b"a\xffb"[..], b"\xf4\x8f\xbe\x80", "\u{10fffd}caf\u{e9}".as_bytes(), b"\xc3"]
        {
            let argument = OsString::from_vec(bytes.to_vec());
            let text = text(argument.clone());
            assert_eq!(os_string(&text), argument);
            assert_eq!(os_string(&text).as_bytes(), bytes);
        }
    }
}
