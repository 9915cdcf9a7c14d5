//! What a program's bytes are for: by section, by crate, by function.

use anyhow::Result;
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind, elf};
use std::collections::BTreeMap;
use tabled::builder::Builder;
use tabled::settings::{Alignment, Style, object::Columns};

/// Rows of each list.
const ROWS: usize = 10;

/// A program's parts, largest first.
#[derive(Debug)]
pub struct Parts {
    sections: Vec<(String, u64)>,
    crates: Vec<(String, u64)>,
    functions: Vec<(String, u64)>,
    total: u64,
}

impl Parts {
    /// Of a program: `whole` with its symbols, `stripped` without.
    ///
    /// # Errors
    /// Not an object file.
    pub fn of(whole: &[u8], stripped: &[u8]) -> Result<Parts> {
        let file = object::File::parse(stripped)?;
        let allocated = |flags| match flags {
            SectionFlags::Elf { sh_flags } => sh_flags & u64::from(elf::SHF_ALLOC) != 0,
            _ => true,
        };
        let mut sections: Vec<(String, u64)> = file
            .sections()
            .filter(|section| allocated(section.flags()) && section.file_range().is_some())
            .map(|section| (section.name().unwrap_or("?").to_owned(), section.size()))
            .collect();
        let total = stripped.len() as u64;
        let known: u64 = sections.iter().map(|(_, size)| size).sum();
        sections.push(("headers, padding".to_owned(), total.saturating_sub(known)));

        let mut functions = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for symbol in object::File::parse(whole)?.symbols() {
            let counts = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data);
            // Names for the same bytes are counted once: the first in the file gets them.
            if counts && symbol.size() > 0 && seen.insert(symbol.address(), ()).is_none() {
                let name = symbol.name().unwrap_or("?");
                let name = format!("{:#}", rustc_demangle::demangle(name));
                *functions.entry(name).or_insert(0) += symbol.size();
            }
        }
        let mut crates = BTreeMap::new();
        for (name, size) in &functions {
            *crates.entry(owner(name).to_owned()).or_insert(0) += size;
        }
        Ok(Parts {
            sections: sorted(sections),
            crates: sorted(crates.into_iter().collect()),
            functions: sorted(functions.into_iter().collect()),
            total,
        })
    }

    /// Bytes of each section.
    pub fn sections(&self) -> BTreeMap<&str, u64> {
        self.sections.iter().map(|(name, size)| (name.as_str(), *size)).collect()
    }

    /// The closing table.
    pub fn table(&self) -> String {
        let mut builder = Builder::new();
        for (title, list) in
            [("section", &self.sections), ("crate", &self.crates), ("function", &self.functions)]
        {
            builder.push_record([title, "bytes", "%"]);
            for (name, size) in list.iter().take(ROWS) {
                let share = *size as f64 * 100.0 / self.total as f64;
                let name: String = name.chars().take(70).collect();
                builder.push_record([name, size.to_string(), format!("{share:.1}")]);
            }
        }
        let mut table = builder.build();
        table.with(Style::blank()).modify(Columns::new(1..), Alignment::right());
        table.to_string()
    }
}

fn sorted(mut list: Vec<(String, u64)>) -> Vec<(String, u64)> {
    list.retain(|(_, size)| *size > 0);
    list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    list
}

/// The crate that a function is of: for an implementation of a trait, the type's.
fn owner(name: &str) -> &str {
    if !name.contains("::") {
        return "C (glibc, libgcc)";
    }
    let start = name.find(|c: char| c.is_alphanumeric() || c == '_').unwrap_or(0);
    let mut rest = &name[start..];
    for word in ["dyn ", "mut ", "const "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    match &rest[..end] {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" | "bool" | "char" | "str" => "core",
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        assert_eq!(owner("brisk::vm::run"), "brisk");
        assert_eq!(
            owner("<brisk_devices::serial::Uart as core::fmt::Debug>::fmt"),
            "brisk_devices"
        );
        assert_eq!(owner("<&mut W as core::fmt::Write>::write_str"), "W");
        assert_eq!(owner("<str as core::fmt::Debug>::fmt"), "core");
        assert_eq!(owner("memcpy"), "C (glibc, libgcc)");
    }

    #[test]
    fn parts_of_this_program() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let parts = Parts::of(&program, &program).unwrap();
        assert!(parts.sections()[".text"] > 100_000);
        let sum: u64 = parts.sections().values().sum();
        assert_eq!(sum, program.len() as u64);
        assert!(parts.crates.iter().any(|(name, _)| name == "std"));
        let table = parts.table();
        assert!(table.contains("section") && table.contains("function"), "{table}");
    }
}
