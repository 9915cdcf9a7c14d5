//! An OCI image whose one file is a bundle, from scratch: an image that is a VM.

use anyhow::{Context, Result, ensure};
use duct::cmd;
use serde_json::json;
use std::fs;
use std::path::Path;

use crate::cache;
use crate::guest::images::quiet;

/// Writes `program` as an image into a layout, LAYOUT or LAYOUT:TAG, new or with nothing else in it.
///
/// # Errors
/// There is something else in the layout, or it cannot be written.
pub fn write(reference: &str, program: &Path, name: &str) -> Result<()> {
    let (dir, tag) = match reference.rsplit_once(':') {
        Some((dir, tag)) if !tag.contains('/') => (dir, tag),
        _ => (reference, "latest"),
    };
    let dir = Path::new(dir);
    let cannot = || format!("--oci-out {}", dir.display());
    if let Ok(mut entries) = fs::read_dir(dir) {
        let ours = dir.join("oci-layout").is_file();
        ensure!(ours || entries.next().is_none(), "--oci-out {}: not empty", dir.display());
    }
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(cannot)?;
    // The program's name in the image is its own, and the same program gives the same layer.
    let stage = tempfile::tempdir()?;
    fs::copy(program, stage.path().join(name)).with_context(cannot)?;
    let layer = blobs.join("layer.part");
    let words =
        "--format=ustar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=755";
    let mut all: Vec<std::ffi::OsString> = words.split(' ').map(Into::into).collect();
    all.extend(["-C".into(), stage.path().into(), "-cf".into(), layer.clone().into(), name.into()]);
    quiet(&cmd("tar", all), "tar").with_context(cannot)?;
    let sum = cache::file_sum(&layer)?;
    let size = fs::metadata(&layer)?.len();
    fs::rename(&layer, blobs.join(&sum)).with_context(cannot)?;
    let layer = json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": format!("sha256:{sum}"),
        "size": size,
    });
    let blob = |kind: &str, content: &serde_json::Value| -> Result<serde_json::Value> {
        let bytes = serde_json::to_vec(content)?;
        let sum = cache::sum(&bytes);
        fs::write(blobs.join(&sum), &bytes).with_context(cannot)?;
        Ok(json!({
            "mediaType": format!("application/vnd.oci.image.{kind}.v1+json"),
            "digest": format!("sha256:{sum}"),
            "size": bytes.len(),
        }))
    };
    let config = blob(
        "config",
        &json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [format!("/{name}")], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            "history": [{"created_by": "cargo xtask bundle"}],
        }),
    )?;
    let mut manifest = blob(
        "manifest",
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [layer],
        }),
    )?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(dir.join("index.json"), serde_json::to_vec(&index)?).with_context(cannot)?;
    fs::write(dir.join("oci-layout"), b"{\"imageLayoutVersion\":\"1.0.0\"}")
        .with_context(cannot)?;
    println!("{}:{tag}: {}", dir.display(), manifest["digest"].as_str().unwrap_or_default());
    Ok(())
}
