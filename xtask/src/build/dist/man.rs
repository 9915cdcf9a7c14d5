//! What is made of `brisk --help`: the manual page and the shell's completion.

use std::fmt::Write as _;

/// The option's names, as typed, and what is said of it.
type Options = Vec<(String, String)>;

/// What is before the options, paragraph by paragraph, and the options.
fn parts(help: &str) -> (Vec<String>, Options) {
    let (before, options) = help.split_once("\nOptions:\n").unwrap_or((help, ""));
    let joined = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let paragraphs = before.split("\n\n").filter(|text| !text.starts_with("Usage:")).map(joined);
    let mut found: Options = Vec::new();
    for line in options.lines() {
        match (line.strip_prefix("  --"), found.last_mut()) {
            (Some(line), _) => {
                // The name ends at a blank; argh has `help` as a word too.
                let (name, text) = line.split_once(' ').unwrap_or((line, ""));
                let text = text.trim_start().strip_prefix("help ").unwrap_or(text);
                let name = format!("--{}", name.trim_end_matches(','));
                found.push((name, joined(text)));
            }
            (None, Some((_, text))) => *text = joined(&format!("{text} {line}")),
            (None, None) => {}
        }
    }
    (paragraphs.filter(|text| !text.is_empty()).collect(), found)
}

/// The manual page, man(7).
pub fn page(help: &str, version: &str) -> String {
    let (paragraphs, options) = parts(help);
    let mut page = format!(
        ".TH BRISK 1 \"\" \"brisk {version}\" \"User commands\"\n.SH NAME\nbrisk \\- boots a Linux VM to \
         userspace\n.SH SYNOPSIS\n.B brisk \\-\\-kernel\n.I FILE\n.RI [ OPTION ...]\n.SH DESCRIPTION\n"
    );
    for paragraph in paragraphs {
        let _ = writeln!(page, ".PP\n{}", escaped(&paragraph));
    }
    page += ".SH OPTIONS\n";
    for (names, text) in options {
        let _ = writeln!(page, ".TP\n.B {}\n{}", escaped(&names), escaped(&text));
    }
    page + ".SH SEE ALSO\nREADME.md, features.md and SECURITY.md of the source.\n"
}

/// Completion of flags, for bash.
pub fn completion(help: &str) -> String {
    let (_, options) = parts(help);
    let flags: Vec<String> = options.into_iter().map(|(names, _)| names).collect();
    format!("complete -o default -W '{}' brisk\n", flags.join(" "))
}

/// As troff takes it.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "Usage: brisk --kernel <kernel> [--x]\n\nBoots a VM.\n\nStatus: 0\nor 1.\n\n\
                        Options:\n  --kernel          the kernel\n  --boot-protocol   pvh|linux64\n         \
                               (default x)\n  --help, help      display usage\n";

    #[test]
    fn all_of_the_help_is_in_it() {
        let page = page(HELP, "1.2");
        assert!(page.contains(".PP\nBoots a VM.\n.PP\nStatus: 0 or 1.\n"), "{page}");
        let option = ".TP\n.B \\-\\-boot\\-protocol\npvh|linux64 (default x)\n";
        assert!(page.contains(option), "{page}");
        assert_eq!(
            completion(HELP),
            "complete -o default -W '--kernel --boot-protocol --help' brisk\n"
        );
    }

    /// man itself has nothing to complain of.
    #[test]
    fn groff_reads_it() {
        let groff =
            duct::cmd!("groff", "-man", "-ww", "-Tutf8", "-P-cbou").stdin_bytes(page(HELP, "1.2"));
        let Ok(output) = groff.stdout_capture().stderr_capture().unchecked().run() else {
            eprintln!("groff is not installed, nothing to read it with");
            return;
        };
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(String::from_utf8_lossy(&output.stdout).contains("--boot-protocol"));
    }
}
