//! The features' documentation in Cargo.toml: `#!` starts a section, `##` says what the feature on
//! the next line is.

use anyhow::{Result, ensure};

/// Features that belong together.
#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    /// Its title.
    pub title: String,
    /// Its features, in order.
    pub features: Vec<Feature>,
}

/// A feature.
#[derive(Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// What it does.
    pub about: String,
}

/// Reads a Cargo.toml.
///
/// # Errors
/// A feature has no comment.
pub fn read(toml: &str) -> Result<Vec<Section>> {
    let inside = toml.lines().skip_while(|line| *line != "[features]").skip(1);
    let inside = inside.take_while(|line| !line.starts_with('['));
    let mut sections = vec![Section { title: "Everything".to_owned(), features: Vec::new() }];
    let mut about = String::new();
    for line in inside {
        if let Some(title) = line.strip_prefix("#! ###") {
            sections.push(Section { title: title.trim().to_owned(), features: Vec::new() });
        } else if let Some(words) = line.strip_prefix("## ") {
            about.push_str(if about.is_empty() { "" } else { " " });
            about.push_str(words.trim());
        } else if let Some((name, _)) = line.split_once(" = ")
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && name != "default"
        {
            ensure!(!about.is_empty(), "Cargo.toml: feature {name} has no ## comment");
            let feature = Feature { name: name.to_owned(), about: std::mem::take(&mut about) };
            if let Some(section) = sections.last_mut() {
                section.features.push(feature);
            }
        }
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_and_features() {
        let toml = "[package]\nname = \"x\"\n[features]\ndefault = [\"a\"]\n## All\n## of it.\n\
                    full = [\n    \"a\",\n]\n\n#! ### Devices\n## One.\na = []\n[dependencies]\nb = 1\n";
        let sections = read(toml).unwrap();
        let names: Vec<&str> = sections.iter().map(|s| s.title.as_str()).collect();
        assert_eq!(names, ["Everything", "Devices"]);
        assert_eq!(sections[0].features[0].about, "All of it.");
        assert_eq!(sections[1].features[0].name, "a");
        assert_eq!(sections[1].features.len(), 1);
        assert!(read("[features]\na = []\n").is_err());
    }
}
