//! Every scenario's binary, as it is shipped, boots its own example command in the lab.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::build::scenario::{self, Scenario};
use crate::build::{self, Libc, Order, features};
use crate::cache::Cache;
use crate::guest::{images, init, kernel, stock};
use crate::lab::{self, Job, quote};
use crate::paths;
use crate::ui::Step;

/// 2 MiB pages that L1 reserves: 512 MiB and what is lost to fragments.
const HUGEPAGES: u32 = 288;

/// What is to boot besides the scenarios: the talk's last image with nothing but the features that it
/// needs, so no console; seen by the exit status, and by the boot log where the timer is built in.
const MORE: &[(&str, &str, &str)] = &[
    ("no-console", "pmem,hugepages", ""),
    ("no-console-log", "pmem,hugepages,boot-timer", " --boot-log log"),
];

/// Builds and boots all, static ones too. Returns how many.
///
/// # Errors
/// One did not build or boot.
pub fn all() -> Result<u32> {
    let cache = Cache::open()?;
    let known = features::of_brisk()?.names();
    let mut subjects = scenario::table();
    for (name, features, more) in MORE {
        let example = format!(
            "brisk --kernel vmlinux --pmem file=ext4-partition.raw \
             --cmdline \"root=/dev/pmem0p1 quiet\" --memory size=512M,hugepages=on{more}"
        );
        let adhoc = build::adhoc(features, &known)?;
        subjects.push(Scenario { name: (*name).to_owned(), example, ..adhoc });
    }
    let mut files = Vec::new();
    let dir = tempfile::tempdir()?;
    let mut step = Step::counted("building every scenario", subjects.len() as u64);
    for (index, subject) in subjects.iter().enumerate() {
        // Both ways of linking, in turn.
        let program = program(subject, index % 2 == 1)?;
        let path = dir.path().join(&subject.name);
        fs::write(&path, program)?;
        files.push((path, format!("brisk-{}", subject.name)));
        step.tick();
    }
    step.done();
    let step = Step::start("booting every scenario in the lab");
    let script = script(&cache, &subjects)?;
    let timeout = Duration::from_secs(600);
    let job = Job { script, files, hugepages: HUGEPAGES, timeout, ..Job::default() };
    let output = lab::run(&job)?;
    ensure!(output.status == 0, "a scenario does not boot:\n{}", output.console);
    let log = fs::read_to_string(output.dir.join("log")).context("no boot log")?;
    ensure!(log.contains("\"userspace\""), "no userspace in the boot log:\n{log}");
    step.done();
    Ok(subjects.len() as u32)
}

/// A scenario's program, linked statically where `fixed`.
///
/// # Errors
/// It does not build.
pub fn program(subject: &Scenario, fixed: bool) -> Result<Vec<u8>> {
    let (source, target_dir) = (paths::workspace(), &paths::target()?);
    let order = Order {
        source,
        target_dir,
        scenario: subject,
        libc: Libc::shipped(fixed),
        target: build::TARGET,
    };
    Ok(build::make(&order).with_context(|| format!("scenario {}", subject.name))?.program)
}

/// Boots one after the other. Our init powers off, which is status 0; a kernel that finds no root or
/// no init panics, which is status 3.
fn script(cache: &Cache, subjects: &[Scenario]) -> Result<String> {
    let (kernel, guest) = (kernel::ensure(cache, kernel::Config::Guest)?, init::ensure(cache)?);
    let images = images::small(cache)?;
    let mut script = "mkdir /tmp/boot && cd /tmp/boot || exit 1\nstatus=0\n\
                      chmod +x /tmp/out/brisk-*\n"
        .to_owned();
    let link = |path: &Path, name| format!("ln -s {} {name}\n", quote(&path.to_string_lossy()));
    script += &link(&kernel.vmlinux, "vmlinux");
    script += &link(&stock::CLOUD.ensure(cache)?.vmlinuz, "vmlinuz");
    script += &link(&guest.initramfs, "initramfs.cpio");
    for (path, name) in [
        (&images.ext4, "ext4.raw"),
        (&images.ext4_partition, "ext4-partition.raw"),
        (&images.erofs, "erofs.raw"),
    ] {
        // Guests write to them.
        script += &format!("cp {} {name}\n", quote(&path.to_string_lossy()));
    }
    for subject in subjects {
        let Some(args) = subject.example.strip_prefix("brisk ") else {
            bail!("scenario {}: its example does not start with `brisk `", subject.name);
        };
        let name = &subject.name;
        script += &format!(
            "timeout 180 /tmp/out/brisk-{name} {args} < /dev/null > said 2>&1; got=$?\n\
             [ $got = 0 ] || {{ echo {name}: status $got; cat said; status=1; }}\n"
        );
    }
    Ok(script + "cp log /tmp/out/log\nexit $status\n")
}
