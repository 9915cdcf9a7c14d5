//! Files by which engines that people have run a bundle, for use as they are.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Name here, and text; `@NAME@` is the bundle's, `@PATH@` where it is, `@IMAGE@` its image.
const FILES: &[(&str, &str)] = &[
    ("@NAME@@.service", include_str!("../../../deploy/systemd.service")),
    ("@NAME@.pod.yaml", include_str!("../../../deploy/pod.yaml")),
    ("@NAME@.deployment.yaml", include_str!("../../../deploy/deployment.yaml")),
    ("@NAME@.nomad.hcl", include_str!("../../../deploy/nomad.hcl")),
    ("@NAME@.sbatch", include_str!("../../../deploy/slurm.sbatch")),
];

/// Writes them into `directory`.
///
/// # Errors
/// It cannot be written.
pub fn write(directory: &Path, program: &Path, name: &str) -> Result<()> {
    let cannot = || format!("--deploy {}: cannot write", directory.display());
    fs::create_dir_all(directory).with_context(cannot)?;
    let path = std::path::absolute(program)?;
    let path = path.to_string_lossy();
    // What names of pods and units are made of.
    let id: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let image = format!("localhost/{id}:latest");
    for (file, text) in FILES {
        let fill = |text: &str| {
            text.replace("@NAME@", &id).replace("@PATH@", &path).replace("@IMAGE@", &image)
        };
        let file = directory.join(fill(file));
        fs::write(&file, fill(text)).with_context(cannot)?;
        println!("{}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use duct::cmd;

    /// For Nomad's and Kubernetes' files Debian has nothing that reads them.
    #[test]
    fn what_can_be_checked_without_the_engines() {
        let dir = tempfile::tempdir().unwrap();
        let program = Path::new("/bin/true");
        write(dir.path(), program, "An_App").unwrap();
        for (file, _) in FILES {
            let text = fs::read_to_string(dir.path().join(file.replace("@NAME@", "an-app")));
            let text = text.unwrap();
            for left in ["@NAME@", "@PATH@", "@IMAGE@"] {
                assert!(!text.contains(left), "{file}: {left}");
            }
        }
        let verified = cmd!("systemd-analyze", "verify", dir.path().join("an-app@.service"));
        let said = verified.stderr_to_stdout().stdout_capture().unchecked().run().unwrap();
        let text = String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success() && text.is_empty(), "{text}");
        cmd!("sh", "-n", dir.path().join("an-app.sbatch")).run().unwrap();
    }
}
