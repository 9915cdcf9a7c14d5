//! The guest's root file system for `cargo xtask bench --fio`: Debian's fio with the libraries that
//! it is linked with, busybox, and an init that runs the jobs.

use anyhow::{Context, Result};
use duct::cmd;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::vmm;
use super::{DEPTHS, JOBS, SIZE_MIB};
use crate::cache::{Cache, Inputs};
use crate::debian;
use crate::guest::images;

/// Debian's package.
const PACKAGE: &str = "fio";

/// Stands in for what `guest.config` lacks.
const SHIM: &str = include_str!("shim.c");

/// What init prints when all jobs ran.
pub const DONE: &str = "fio: done";

/// PID 1. `fio_disk`, a parameter of the kernel's command line, is the disk under test; the first job is
/// not counted, by which fio itself comes off its own disk. With `fio_smp` two jobs run, in as many
/// threads, and no others. Requests that are on their way at a time
/// are threads', each with a part of the disk, for this kernel has no other way to have several. Each
/// job leaves one line (`--minimal`); see fio(1), "Terse output".
fn init() -> String {
    let kib = SIZE_MIB * 1024;
    let mut text = format!(
        "#!/bin/busybox sh\n\
         b=/bin/busybox\n\
         $b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t tmpfs tmp /tmp\n\
         cd /tmp\n\
         run() {{\n  \
         part=$(({kib} / $2))k\n  \
         LD_PRELOAD=/shim.so /usr/bin/fio --name=\"$1-$2\" --rw=$1 --filename=/dev/$fio_disk --bs=4k \
         --ioengine=psync --direct=1 --thread --numjobs=$2 --group_reporting --size=$part \
         --offset_increment=$part --disk_util=0 --clocksource=clock_gettime --minimal --terse-version=3\n\
         }}\n\
         run read 1 > /dev/null\n"
    );
    text += "if [ -n \"${fio_smp:-}\" ]; then\n  \
             for job in randread randwrite; do run $job $fio_smp; done\n  exec $b reboot -f\nfi\n";
    for depth in DEPTHS {
        JOBS.iter().for_each(|job| text += &format!("run {job} {depth}\n"));
    }
    text + &format!("echo \"{DONE}\"\nexec $b reboot -f\n")
}

/// The image, an EROFS without partitions, made when it is not in the cache.
///
/// # Errors
/// fio cannot be installed, or the image cannot be built.
pub fn ensure(cache: &Cache) -> Result<PathBuf> {
    debian::ensure(&[PACKAGE])?;
    let fio = Path::new("/usr/bin/fio");
    let busybox = Path::new("/bin/busybox");
    let files = vmm::files(fio, "")?;
    let mut inputs = Inputs::new().with("init", init()).with("shim", SHIM).with_file(busybox)?;
    for path in &files {
        inputs = inputs.with_file(path)?;
    }
    let dir = cache.artifact("image-fio", &inputs, |work, out| {
        let root = work.join("root");
        for dir in ["dev", "proc", "sys", "tmp", "sbin", "bin"] {
            fs::create_dir_all(root.join(dir))?;
        }
        for path in files.iter().map(PathBuf::as_path).chain([busybox]) {
            // Where `ldd` names it; behind a link there is a file of another name.
            let to = root.join(path.strip_prefix("/")?);
            fs::create_dir_all(to.parent().context("no directory")?)?;
            fs::copy(path, &to).with_context(|| path.display().to_string())?;
        }
        let source = work.join("shim.c");
        fs::write(&source, SHIM)?;
        cmd!("gcc", "-O2", "-shared", "-fPIC", "-o", root.join("shim.so"), source)
            .run()
            .context("cannot run gcc")?;
        let script = root.join("sbin/init");
        fs::write(&script, init())?;
        cmd!("chmod", "755", &script).run().context("cannot run chmod")?;
        images::erofs(&root, &out.join("fio.raw"), 0, &[])
    })?;
    Ok(dir.join("fio.raw"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_init_is_a_shell_script() {
        let check = cmd!("sh", "-n").stdin_bytes(init()).unchecked().run().unwrap();
        assert!(check.status.success());
        assert_eq!(init().matches("\nrun ").count(), 1 + JOBS.len() * DEPTHS.len());
    }
}
