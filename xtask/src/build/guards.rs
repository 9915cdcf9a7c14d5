//! The guards against features that make no sense together: `#[cfg(…)] compile_error!("…");`. Read
//! from the source, so that each has its negative test as soon as it is written.

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;

/// A guard.
#[derive(Debug, PartialEq, Eq)]
pub struct Guard {
    /// What it says.
    pub message: String,
    when: Cfg,
}

/// A condition on features.
#[derive(Debug, PartialEq, Eq)]
enum Cfg {
    Feature(String),
    Not(Box<Cfg>),
    All(Vec<Cfg>),
    Any(Vec<Cfg>),
}

impl Guard {
    /// Whether it stops a build with these features.
    pub fn fires(&self, features: &BTreeSet<String>) -> bool {
        self.when.holds(features)
    }
}

impl Cfg {
    fn holds(&self, features: &BTreeSet<String>) -> bool {
        match self {
            Self::Feature(name) => features.contains(name),
            Self::Not(inner) => !inner.holds(features),
            Self::All(list) => list.iter().all(|cfg| cfg.holds(features)),
            Self::Any(list) => list.iter().any(|cfg| cfg.holds(features)),
        }
    }
}

/// All guards of a source file.
///
/// # Errors
/// A guard that is not of the form above.
pub fn read(source: &str) -> Result<Vec<Guard>> {
    let mut guards = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find("compile_error!(") {
        let (before, after) = rest.split_at(at);
        let start = before.rfind("#[cfg(").context("compile_error! without #[cfg(…)]")?;
        let mut text = before[start + "#[cfg(".len()..].trim_end();
        text = text.strip_suffix(")]").context("something between #[cfg(…)] and compile_error!")?;
        let mut words = text;
        let when = cfg(&mut words)?;
        if !words.trim_matches([' ', '\n', ',']).is_empty() {
            bail!("cannot read #[cfg({text})]");
        }
        let message = after.split('"').nth(1).context("compile_error! without a message")?;
        guards.push(Guard { message: message.to_owned(), when });
        rest = &after["compile_error!(".len()..];
    }
    Ok(guards)
}

/// Takes one condition off the front of `text`.
fn cfg(text: &mut &str) -> Result<Cfg> {
    *text = text.trim_start_matches([' ', '\n', ',']);
    if let Some(rest) = text.strip_prefix("feature") {
        let mut parts = rest.splitn(3, '"');
        let (Some(_), Some(name), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            bail!("cannot read `{text}`");
        };
        *text = rest;
        return Ok(Cfg::Feature(name.to_owned()));
    }
    let (word, rest) = text.split_once('(').with_context(|| format!("cannot read `{text}`"))?;
    *text = rest;
    let mut list = Vec::new();
    loop {
        *text = text.trim_start_matches([' ', '\n', ',']);
        if let Some(rest) = text.strip_prefix(')') {
            *text = rest;
            break;
        }
        list.push(cfg(text)?);
    }
    Ok(match word.trim() {
        "all" => Cfg::All(list),
        "any" => Cfg::Any(list),
        "not" => Cfg::Not(Box::new(list.pop().context("not() of nothing")?)),
        other => bail!("cannot read {other}(…)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires(guard: &Guard, features: &[&str]) -> bool {
        guard.fires(&features.iter().map(|&f| f.to_owned()).collect())
    }

    #[test]
    fn guards_are_read_and_judged() {
        let source = "mod a;\n#[cfg(all(feature = \"mmio\", not(any(feature = \"a\",\n    \
                      feature = \"b\"))))]\ncompile_error!(\"add a\");\n\n#[cfg(feature = \"b\")]\n\
                      mod b;\n#[cfg(feature = \"c\")]\ncompile_error!(\n    \"no c\"\n);\n";
        let guards = read(source).unwrap();
        assert_eq!(guards.len(), 2);
        assert_eq!(guards[0].message, "add a");
        assert!(fires(&guards[0], &["mmio"]) && fires(&guards[0], &["mmio", "x"]));
        assert!(!fires(&guards[0], &["mmio", "b"]) && !fires(&guards[0], &["x"]));
        assert!(guards[1].message == "no c" && fires(&guards[1], &["c"]));
        assert!(read("compile_error!(\"x\");").is_err());
        assert!(read("#[cfg(unix)]\ncompile_error!(\"x\");").is_err());
        assert_eq!(read("fn main() {}").unwrap(), []);
    }
}
