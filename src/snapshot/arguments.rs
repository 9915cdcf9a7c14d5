//! `--snapshot` and `--restore`: the command line is saved with the VM, and is there again.

use super::parts::Kind;
use super::{Restored, SnapshotConfig};
use crate::cli::words::flags;
use crate::config::{Config, pairs, parse_code, unknown, usage};
use crate::error::{Error, Result};

/// What is about one run, and not saved.
const OF_THE_RUN: [&str; 10] = [
    "--api-socket",
    "--notify",
    "--snapshot",
    "--restore",
    "--boot-log",
    "--timeline",
    "--stats",
    "--trace",
    "--seccomp",
    "--log-level",
];
/// What is as it was.
const OF_THE_MACHINE: [&str; 8] = [
    "--kernel",
    "--initramfs",
    "--cmdline",
    "--cmdline-exact",
    "--boot-protocol",
    "--cpus",
    "--memory",
    "--transport",
];

impl SnapshotConfig {
    /// Parses `path=DIR,at=CODE[,then=exit|go-on]`; where `clients` may say when, no CODE is needed.
    ///
    /// # Errors
    /// An unknown key, a malformed value, or no path or code.
    pub fn parse(text: &str, clients: bool) -> Result<SnapshotConfig> {
        let (mut path, mut at, mut goes_on) = ("", None, false);
        for (key, value) in pairs(text) {
            match key {
                "path" => path = value.trim_end_matches('/'),
                "at" => at = Some(parse_code("--snapshot at", value)?),
                "then" => {
                    goes_on = match value {
                        "exit" => false,
                        "go-on" => true,
                        _ => return usage(format!("--snapshot then={value}: give exit or go-on")),
                    };
                }
                _ => return unknown("--snapshot", key, "path, at, then"),
            }
        }
        if path.is_empty() || at.is_none() && !clients {
            return usage(format!("--snapshot {text}: give path=DIR,at=CODE"));
        }
        Ok(SnapshotConfig { path: path.into(), at, goes_on, arguments: Vec::new() })
    }
}

/// Parses `--snapshot`, if it was given.
///
/// # Errors
/// As [`SnapshotConfig::parse`].
pub fn parse(text: Option<&str>, clients: bool) -> Result<Option<SnapshotConfig>> {
    text.map(|text| SnapshotConfig::parse(text, clients)).transpose()
}

/// Opens the snapshot that `words` name.
///
/// # Errors
/// It is none, or another flag says what the snapshot does.
pub fn open(words: &[String]) -> Result<Option<Restored>> {
    let restore = flags(words).find(|(flag, _)| *flag == "--restore");
    let Some((_, [_, value])) = restore else { return Ok(None) };
    if let Some((flag, _)) = flags(words).find(|(flag, _)| OF_THE_MACHINE.contains(flag)) {
        return Err(Error::usage(format!(
            "{flag}: is as it was when the snapshot was taken; leave it away beside --restore"
        )));
    }
    let (mut path, mut any_images, mut record) = (value.as_str(), false, None);
    if ["source_url=", "images=", "record="].iter().any(|key| value.starts_with(key)) {
        for (key, value) in pairs(value) {
            match (key, value) {
                ("source_url", url) => path = url,
                ("record", code) => record = Some(parse_code("--restore record", code)?),
                ("images", "any") => any_images = true,
                ("images", "same") => any_images = false,
                ("images", _) => {
                    return usage(format!("--restore images={value}: give same or any"));
                }
                _ => return unknown("--restore", key, "source_url, images, record"),
            }
        }
    }
    let path = path.strip_prefix("file://").unwrap_or(path).trim_end_matches('/');
    Restored::open(path, any_images, record).map(Some)
}

/// Adds the words that were saved with it; a flag that was given is left as given.
///
/// # Errors
/// The snapshot is none.
pub fn add_saved(from: Option<&Restored>, words: &mut Vec<String>) -> Result<()> {
    let Some(from) = from else { return Ok(()) };
    let parts = &from.parts;
    let text = std::str::from_utf8(parts.get(Kind::Arguments, 0)?)
        .map_err(|_| parts.wrong(Kind::Arguments, 0))?;
    let given = words.len();
    words.extend(text.split_terminator('\0').map(str::to_owned));
    let mut at = given;
    while let Some((flag, own)) = flags(&words[at..]).next() {
        let behind = at + own.len();
        if flags(&words[..given]).any(|(other, _)| other == flag) {
            words.drain(at..behind);
        } else {
            at = behind;
        }
    }
    Ok(())
}

/// Leaves both where the machine is built.
pub fn set(config: &mut Config, restored: Option<Restored>, words: &[String]) {
    config.restore = restored;
    let Some(snapshot) = &mut config.snapshot else { return };
    for word in flags(words).filter(|(flag, _)| !OF_THE_RUN.contains(flag)).flat_map(|(_, own)| own)
    {
        snapshot.arguments.extend_from_slice(word.as_bytes());
        snapshot.arguments.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::parts::Writer;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    /// Found while the property of the fuzz target `words` was written.
    #[test]
    fn a_value_that_looks_like_a_flag_is_one_flags_value() {
        let all =
            words("--kernel --trace --cmdline --stats --stats --cmdline --timeline --disk path=a");
        let snapshot = SnapshotConfig::parse("path=a,at=1", false).unwrap();
        let mut config = Config { snapshot: Some(snapshot), ..Config::default() };
        set(&mut config, None, &all);
        let saved = config.snapshot.unwrap().arguments;
        assert_eq!(saved, *b"--kernel\0--trace\0--cmdline\0--stats\0--disk\0path=a\0");

        let dir = tempfile::tempdir().unwrap();
        let mut state = Writer::default();
        state.add(Kind::Arguments, 0, &saved);
        std::fs::write(dir.path().join("state"), state.finish()).unwrap();
        std::fs::write(dir.path().join("memory"), "").unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        // The value of one that was given hides no flag, and is none.
        let mut given = vec!["--restore".into(), path, "--stats".into(), "--kernel".into()];
        let from = open(&given).unwrap();
        add_saved(from.as_ref(), &mut given).unwrap();
        assert_eq!(given[4..], words("--kernel --trace --cmdline --stats --disk path=a"));
        assert!(open(&words("--cmdline --restore --kernel k")).unwrap().is_none());
        // Keys come in any order.
        let value = format!("record=0x22,images=any,source_url=file://{}", dir.path().display());
        let from = open(&["--restore".into(), value]).unwrap().unwrap();
        assert!(from.record == Some(0x22) && from.parts.any_images);
    }
}
