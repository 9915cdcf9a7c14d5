//! The table of flags of docs/running.md against `brisk --help`: the same flags, values and defaults in both.

use anyhow::{Result, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// What is said of a flag.
#[derive(Debug, Default, PartialEq, Eq)]
struct Flag {
    /// Sets of values, `on|off`.
    values: BTreeSet<String>,
    /// Empty where there is none to tell.
    default: String,
}

type Flags = BTreeMap<String, Flag>;

/// Compares both.
///
/// # Errors
/// The first flag of which they say different things.
pub fn compare(readme: &str, help: &str) -> Result<()> {
    let (told, there) = (of_table(readme), of_help(help));
    let list = |a: &Flags, b: &Flags| {
        let names = a.keys().filter(|name| !b.contains_key(*name));
        names.cloned().collect::<Vec<_>>().join(", ")
    };
    let missing = list(&there, &told);
    ensure!(missing.is_empty(), "docs/running.md: the table of flags lacks {missing}");
    let unknown = list(&told, &there);
    ensure!(
        unknown.is_empty(),
        "docs/running.md: the table has flags that brisk has not: {unknown}"
    );
    for (name, flag) in &there {
        let Some(other) = told.get(name) else { continue };
        ensure!(
            flag.values == other.values,
            "{name}: --help has {:?}, docs/running.md has {:?}",
            flag.values,
            other.values
        );
        ensure!(
            flag.default == other.default,
            "{name}: its default is `{}` by --help, `{}` by docs/running.md",
            flag.default,
            other.default
        );
    }
    Ok(())
}

/// The flags of the table `flag | default | meaning`. What `none` and `empty` say no help has to.
fn of_table(text: &str) -> Flags {
    let rows = text.lines().skip_while(|line| !line.starts_with("| flag |")).skip(2);
    let mut flags = Flags::new();
    for row in rows.map_while(|row| row.strip_prefix("| ")) {
        let row = row.replace("\\|", "\u{0}");
        let cells: Vec<String> =
            row.split('|').map(|cell| cell.replace('\u{0}', "|").trim().to_owned()).collect();
        let [first, default, ..] = &cells[..] else { continue };
        let default = default.replace('`', "");
        for name in names(first) {
            let flag: &mut Flag = flags.entry(name.to_owned()).or_default();
            flag.values.extend(values(first));
            if !["", "none", "empty"].contains(&&*default) {
                flag.default.clone_from(&default);
            }
        }
    }
    flags
}

/// The flags that each have an entry of the help, but for `--help` itself.
fn of_help(help: &str) -> Flags {
    let mut flags = Flags::new();
    let mut entries: Vec<String> = Vec::new();
    for line in help.lines().skip_while(|line| *line != "Options:").skip(1) {
        match (line.starts_with("  --"), entries.last_mut()) {
            (true, _) => entries.push(line.trim().to_owned()),
            (false, Some(last)) => *last += &format!(" {}", line.trim()),
            (false, None) => {}
        }
    }
    for entry in entries {
        let (name, text) = entry.split_once(' ').unwrap_or((&entry, ""));
        let name = name.trim_end_matches(',');
        if name == "--help" {
            continue;
        }
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let default = text.split_once("(default ").or_else(|| text.split_once("(default: "));
        let default =
            default.and_then(|(_, rest)| rest.split_once(')')).map_or("", |(text, _)| text);
        let flag = Flag { values: values(&text), default: default.to_owned() };
        flags.insert(name.to_owned(), flag);
    }
    flags
}

/// The flags among other words.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split(|c: char| c.is_whitespace() || "`,".contains(c)).filter(|w| w.starts_with("--"))
}

/// The sets of values among other words.
fn values(text: &str) -> BTreeSet<String> {
    let ends = |c: char| c.is_whitespace() || "`,()[]:;".contains(c);
    text.split(ends).filter(|word| word.contains('|')).map(without_key).collect()
}

/// Without the key before: `engine=sync|io_uring` is `sync|io_uring`.
fn without_key(word: &str) -> String {
    match word.split_once('=') {
        Some((key, rest)) if !key.contains('|') => rest.to_owned(),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "`--no`\n| flag | default | meaning |\n|---|---|---|\n\
                         | `--a X`, `--b` | none | like `--c` |\n\
                         | `--d e=,f=on\\|off,g=x\\|y` | `f=off`; at times on | x |\n\n| `--g` | | |\n";
    const HELP: &str = "Usage: brisk --a <a> [--x]\n\nOptions:\n  --a               the --y\n            \
                        z\n  --b      \n        b\n  --d     e=,f=on|off,g=x|y (default f=off; at\n   \
                        times on): what\n  --help, help      display\n";

    #[test]
    fn both_sides_say_the_same() {
        compare(TABLE, HELP).unwrap();
        let differs = |table: &str, help: &str| compare(table, help).unwrap_err().to_string();
        let lacks = differs(&TABLE.replace(", `--b`", ""), HELP);
        assert_eq!(lacks, "docs/running.md: the table of flags lacks --b");
        let more = differs(TABLE, &HELP.replace("  --b      \n        b\n", ""));
        assert_eq!(more, "docs/running.md: the table has flags that brisk has not: --b");
        assert!(differs(&TABLE.replace("x\\|y", "x\\|z"), HELP).starts_with("--d: --help has"));
        assert!(
            differs(TABLE, &HELP.replace("default f=off", "default f=on"))
                .contains("by docs/running.md")
        );
    }
}
