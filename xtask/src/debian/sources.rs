//! apt's sources: derives the backports suite from the source of the release, so that no host name
//! is written here and mirrors and keys stay as the machine has them. Formats: sources.list(5).

/// The two ways to write an apt source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// `deb [options] uri suite component...`
    OneLine,
    /// Stanzas of fields.
    Deb822,
}

/// The source of suite `CODENAME-backports`, in the same format, derived from the first enabled
/// binary source of suite `codename` in `text`; `None` when there is none.
pub fn backports(text: &str, format: Format, codename: &str) -> Option<String> {
    match format {
        Format::OneLine => text.lines().find_map(|line| one_line(line, codename)),
        Format::Deb822 => text.split("\n\n").find_map(|stanza| deb822(stanza, codename)),
    }
}

fn one_line(line: &str, codename: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']').map(|(o, r)| (format!("[{o}] "), r))?,
        None => (String::new(), rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    (suite == codename).then(|| format!("deb {options}{uri} {codename}-backports main\n"))
}

fn deb822(stanza: &str, codename: &str) -> Option<String> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let has = |name: &str, word: &str| {
        field(name).is_some_and(|value| value.split_whitespace().any(|w| w == word))
    };
    let on = field("Enabled").is_none_or(|v| !v.eq_ignore_ascii_case("no"));
    if !on || !has("Types", "deb") || !has("Suites", codename) {
        return None;
    }
    let mut lines = vec![
        "Types: deb".to_owned(),
        format!("Suites: {codename}-backports"),
        "Components: main".to_owned(),
    ];
    // The rest as it is (URIs, Signed-By with an inline key, Trusted ...), continuation lines with
    // their field.
    let mut keep = false;
    for line in stanza.lines().filter(|line| !line.starts_with('#')) {
        if !line.starts_with([' ', '\t']) {
            let key = line.split(':').next().unwrap_or_default();
            keep = !["types", "suites", "components"].contains(&&*key.to_ascii_lowercase());
        }
        if keep && !line.trim().is_empty() {
            lines.push(line.to_owned());
        }
    }
    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n\n\
        # the release\nTypes: deb deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
        Components: main contrib\nSigned-By:\n -----BEGIN\n .\n -----END\n";

    #[test]
    fn derives_deb822() {
        let wanted = "Types: deb\nSuites: bookworm-backports\nComponents: main\n\
            URIs: http://mirror.example/debian\nSigned-By:\n -----BEGIN\n .\n -----END\n";
        assert_eq!(backports(STANZAS, Format::Deb822, "bookworm").as_deref(), Some(wanted));
        assert_eq!(backports(STANZAS, Format::Deb822, "trixie"), None);
        let off = format!("Enabled: no\n{}", STANZAS.split_once("\n\n").unwrap().1);
        assert_eq!(backports(&off, Format::Deb822, "bookworm"), None);
    }

    #[test]
    fn derives_one_line() {
        let text = "# deb http://mirror.example/no bookworm main\n\
            deb-src http://mirror.example/debian bookworm main\n\
            deb http://mirror.example/security bookworm-security main\n\
            deb [signed-by=/k arch=amd64] http://mirror.example/debian bookworm main contrib\n";
        let wanted =
            "deb [signed-by=/k arch=amd64] http://mirror.example/debian bookworm-backports main\n";
        assert_eq!(backports(text, Format::OneLine, "bookworm").as_deref(), Some(wanted));
        assert_eq!(
            backports("deb\thttp://mirror.example/debian\tsid main", Format::OneLine, "sid"),
            Some("deb http://mirror.example/debian sid-backports main\n".to_owned())
        );
        assert_eq!(backports(text, Format::OneLine, "trixie"), None);
    }
}
