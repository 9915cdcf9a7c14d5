//! Arguments that `cargo xtask build` baked in, for a binary that boots its workload by itself.

use std::ffi::OsString;

use super::words::{self, Read};
use crate::error::Result;

/// A flag a line, its values after tabs.
pub const BAKED: Option<&str> = match option_env!("BRISK_DEFAULT_ARGS") {
    // xtask says that there are none.
    Some(text) if text.is_empty() => None,
    given => given,
};
/// Drops them all.
const NONE: &str = "--no-baked";
/// What the help of such a binary says besides.
const HELP: &str = "\n\nBaked in; a flag that is given replaces it, another --disk or --pmem comes behind; \
                    --no-baked drops all:\n  ";

/// Adds those baked in. A flag that was given replaces them, but for one that may be repeated: what was
/// given comes behind.
///
/// # Errors
/// They are wrong.
pub fn add(baked: &str, given: &mut Vec<String>) -> Result<()> {
    if baked.is_empty() {
        return Ok(());
    }
    let stays = |line: &&str| {
        let flag = line.split('\t').next().unwrap_or(line);
        words::is_repeated(flag) || !words::flags(given).any(|(given, _)| given == flag)
    };
    let lines = baked.lines().filter(stays);
    let mut lines = lines.flat_map(|line| line.split('\t')).map(OsString::from);
    let Read::Words(mut all) = words::read(&mut lines)? else { return Ok(()) };
    all.append(given);
    *given = all;
    Ok(())
}

/// Adds those of this binary, if they are wanted.
///
/// # Errors
/// They are wrong.
pub fn add_own(words: &mut Vec<String>) -> Result<()> {
    let Some(baked) = BAKED else { return Ok(()) };
    if !words::flags(words).any(|(flag, _)| flag == NONE) {
        return add(baked, words);
    }
    let others = words::flags(words).filter(|(flag, _)| *flag != NONE);
    *words = others.flat_map(|(_, own)| own.to_vec()).collect();
    Ok(())
}

/// The help or version with what is baked in behind it.
pub fn told(text: String) -> String {
    let Some(baked) = BAKED else { return text };
    text + HELP + &baked.replace('\t', " ").replace('\n', "\n  ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(given: &str) -> String {
        let baked = "--kernel\t/k\n--cmdline\tx y\n--timeline\n--disk\tpath=a\n--disk\tpath=b";
        let mut words: Vec<String> = given.split_whitespace().map(str::to_owned).collect();
        add(baked, &mut words).unwrap();
        words.join(" ")
    }

    #[test]
    fn given_flags_replace_and_repeated_ones_add() {
        assert_eq!(with(""), "--kernel /k --cmdline x y --timeline --disk path=a --disk path=b");
        assert_eq!(
            with("--cmdline quiet --disk path=c"),
            "--kernel /k --timeline --disk path=a --disk path=b --cmdline quiet --disk path=c"
        );
        assert_eq!(
            with("--timeline"),
            "--kernel /k --cmdline x y --disk path=a --disk path=b --timeline"
        );
    }
}
