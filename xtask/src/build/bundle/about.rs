//! What a bundle says of itself.

use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use super::Parts;
use crate::build::{self, dist};
use crate::cache;
use crate::guest::oci::Recipe;

/// What `--brisk-manifest` prints.
///
/// # Errors
/// The image cannot be read, or a dependency has no licence.
pub fn manifest(
    parts: &Parts,
    recipe: &Recipe,
    memory: &str,
    features: &BTreeSet<String>,
    version: &str,
) -> Result<Value> {
    let part = |bytes: &[u8]| json!({"size": bytes.len(), "sha256": cache::sum(bytes)});
    let image = json!({
        "size": fs::metadata(&parts.image)?.len(),
        "sha256": cache::file_sum(&parts.image)?,
        "made_of": recipe.digest,
    });
    Ok(json!({
        "name": parts.name,
        "version": version,
        "features": features,
        "memory": memory,
        "command": recipe.entrypoint,
        "arguments": recipe.cmd,
        "environment": recipe.env,
        "user": recipe.uid,
        "group": recipe.gid,
        "directory": recipe.cwd,
        "brisk": part(&parts.brisk),
        "kernel": part(&parts.kernel),
        "initramfs": part(&parts.initramfs),
        "image": image,
        "licences": {
            "brisk": "Apache-2.0 OR MIT",
            "crates": dist::licences::list(build::TARGET)?,
            "kernel": "GPL-2.0-only WITH Linux-syscall-note",
            "musl": "MIT",
        },
    }))
}

/// What `--help` prints.
pub fn help(parts: &Parts, recipe: &Recipe, manifest: &Value) -> String {
    let mut text = format!(
        "Usage: {} [--] [ARGUMENT...]\n\n\
         A virtual machine that runs one program, in one file; needs /dev/kvm.\n\n",
        parts.name
    );
    let command = [&recipe.entrypoint[..], &recipe.cmd[..]].concat().join(" ");
    let rows = [
        ("runs", command),
        ("memory", manifest["memory"].as_str().unwrap_or_default().to_owned()),
        ("image", recipe.digest.clone()),
        (
            "brisk",
            format!("{} with {}", manifest["version"].as_str().unwrap_or_default(), {
                let names = manifest["features"].as_array().into_iter().flatten();
                names.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
            }),
        ),
    ];
    for (key, value) in rows {
        let _ = writeln!(text, "  {key:8}{value}");
    }
    text + "\nArguments go to the program, all of them behind `--`. Standard input, output and error are \
            its own, and so is\nthe exit status; 125 is brisk's own failure, 126 and 127 that the program \
            cannot be run or is not there, 128+N\nthat signal N ended it. SIGTERM and SIGINT go to the \
            program, which then has 10 s.\n\n  \
            --help             this, where it is the only argument\n  \
            --brisk-manifest   what is in this file, as JSON, where it is the only argument\n"
}
