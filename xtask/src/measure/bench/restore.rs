//! `cargo xtask bench --scenario restore`: a boot, and guests that go on from a snapshot, from exec to
//! what the guest writes to the boot timer behind it; `--density N`: many of them at once.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::script::{Besides, Place, Plan, Slot};
use super::stats::Report;
use super::{LIMIT, Subject, row, vmm};
use crate::cache::Cache;
use crate::guest::kernel::{self, Config};
use crate::guest::{images, init};
use crate::lab::{self, path_in_l1, quote};
use crate::{build, debian};

/// The name that `--scenario` takes.
pub const NAME: &str = "restore";
/// One line for the head of the tables.
pub const ABOUT: &str = "from exec to a mark of the guest's: a boot, and a guest that goes on from a \
                         snapshot; 1 vCPU";
/// Features of the brisk that is measured.
const FEATURES: &[&str] = &["console", "pmem", "hugepages", "snapshot"];
/// Where the snapshots are: one on L1's tmpfs, whose pages are small, and on others.
const DIR: &str = "/bench";

/// What the guest does: it has 1 MiB of its own, is saved at 0xa0, and marks with 0x60. So does init's
/// first act, at which a boot ends.
const FIRST: &str = "touch=1,out=80:a0,out=80:60,poweroff";
/// The same with a pass over that memory in between.
const PASS: &str = "touch=1,out=80:a0,pass,out=80:60,poweroff";

/// How a row gets to its mark.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Boot,
    Restore,
    /// With what a run before recorded until the mark.
    WorkingSet,
    /// From a tmpfs whose pages are of 2 MiB.
    HugeTmpfs,
    /// The same with what a run before recorded.
    HugeWorkingSet,
    /// From a hugetlbfs.
    Hugetlbfs,
}

/// A row of brisk's.
struct Case {
    name: &'static str,
    how: How,
    does: &'static str,
    memory: &'static str,
}

const fn case(name: &'static str, how: How, does: &'static str, memory: &'static str) -> Case {
    Case { name, how, does, memory }
}

const CASES: &[Case] = &[
    case("boot", How::Boot, FIRST, "128M"),
    case("restore", How::Restore, FIRST, "128M"),
    case("restore, working set", How::WorkingSet, FIRST, "128M"),
    case("restore, a tmpfs's huge pages", How::HugeTmpfs, FIRST, "128M"),
    case("restore, both", How::HugeWorkingSet, FIRST, "128M"),
    case("restore, hugetlbfs", How::Hugetlbfs, FIRST, "128M"),
    case("pass over 1 MiB: restore", How::Restore, PASS, "128M"),
    case("pass over 1 MiB: working set", How::WorkingSet, PASS, "128M"),
    case("pass over 1 MiB: a tmpfs's huge pages", How::HugeTmpfs, PASS, "128M"),
    case("pass over 1 MiB: both", How::HugeWorkingSet, PASS, "128M"),
    case("pass over 1 MiB: hugetlbfs", How::Hugetlbfs, PASS, "128M"),
    case("4 GiB: restore", How::Restore, FIRST, "4G"),
    case("4 GiB: working set", How::WorkingSet, FIRST, "4G"),
];

/// Huge pages that L1 has: the memory of three guests at most, and what they write to.
const HUGE_PAGES: u32 = 256;
/// L1's memory in MiB: brisk refuses a guest that is larger than its host.
const MEMORY: u32 = 6144;

impl Case {
    fn boots(&self, program: &str) -> String {
        format!(
            "{program} --kernel {DIR}/vmlinux --pmem file={DIR}/erofs.new,discard_writes=on --cmdline \
             'root=/dev/pmem0 rootfstype=erofs rootflags=dax console=hvc0 quiet brisk.do={}' \
             --console null --memory size={}",
            self.does, self.memory
        )
    }

    fn slot(&self, index: usize) -> Slot {
        let program = format!("{DIR}/brisk");
        let (mount, at) = match self.how {
            How::Boot => {
                let command = self.boots(&program);
                return Slot { program, command, disk: None, prepare: None };
            }
            How::HugeTmpfs | How::HugeWorkingSet => {
                (Some("-t tmpfs -o huge=always"), format!("{DIR}/mount.{index}"))
            }
            How::Hugetlbfs => (Some("-t hugetlbfs"), format!("{DIR}/mount.{index}")),
            _ => (None, DIR.to_owned()),
        };
        let snapshot = format!("{at}/snapshot.{index}");
        let mut prepare = "set -e\n".to_owned();
        if let Some(mount) = mount {
            let _ = writeln!(prepare, "busybox mkdir {at}\nbusybox mount {mount} none {at}");
        }
        let _ = writeln!(prepare, "{} --snapshot path={snapshot},at=0xa0", self.boots(&program));
        if matches!(self.how, How::WorkingSet | How::HugeWorkingSet) {
            let _ = writeln!(
                prepare,
                "{program} --restore source_url=file://{snapshot},record=0x60 --console null"
            );
        }
        let command = format!("{program} --restore {snapshot} --console null");
        Slot { program, command, disk: None, prepare: Some(prepare) }
    }
}

/// QEMU's microvm, saved while its init writes its marks in a loop, by the kernel (/dev/port): QEMU
/// gives a guest its task register back as it read it, with which the lab's CPU refuses userspace its
/// ports.
fn qemu(index: usize, restores: bool) -> (Slot, PathBuf, String) {
    let program = "/usr/bin/qemu-system-x86_64".to_owned();
    let rest = format!(
        "-M microvm,acpi=off,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=off -accel kvm -cpu host \
         -m 128M -nodefaults -no-user-config -display none -no-reboot -kernel {DIR}/vmlinux-guest \
         -initrd {DIR}/initramfs -append 'quiet brisk.do=touch=1,beat' -global migration.mapped-ram=on"
    );
    let file = format!("file:{DIR}/qemu.{index}");
    let slot = match restores {
        false => Slot {
            command: format!("{program} {rest}"),
            program: program.clone(),
            disk: None,
            prepare: None,
        },
        true => Slot {
            command: format!("{program} {rest} -incoming {file}"),
            program: program.clone(),
            disk: None,
            prepare: Some(format!(
                "(busybox sleep 1; echo migrate {file}; busybox sleep 3; echo quit) | \
                 {program} {rest} -monitor stdio\nbusybox test -s {DIR}/qemu.{index}\n"
            )),
        },
    };
    (slot, PathBuf::from(program), rest)
}

/// The files of all rows.
fn shared(brisk: PathBuf, with_qemu: bool) -> Result<Vec<(PathBuf, String)>> {
    debian::ensure(&debian::ALL)?;
    let cache = Cache::open()?;
    let mut files = vec![
        (brisk, "brisk"),
        (kernel::ensure(&cache, Config::Micro)?.vmlinux, "vmlinux"),
        (images::small(&cache)?.erofs, "erofs.new"),
    ];
    if with_qemu {
        files.push((kernel::ensure(&cache, Config::Guest)?.vmlinux, "vmlinux-guest"));
        files.push((init::ensure(&cache)?.initramfs, "initramfs"));
    }
    Ok(files.into_iter().map(|(path, name)| (path, name.to_owned())).collect())
}

/// Measures all rows.
///
/// # Errors
/// Something could not be built, or nothing was measured.
pub fn measure(runs: u32, with_qemu: bool) -> Result<(Report, Vec<String>)> {
    let brisk = build::program(Some(FEATURES))?;
    let mut own: BTreeSet<PathBuf> = vmm::files(&brisk, "")?;
    own.remove(&brisk);
    let mut slots: Vec<Slot> = CASES.iter().enumerate().map(|(i, case)| case.slot(i)).collect();
    let subject = |vmm: &str, step| Subject { vmm: vmm.to_owned(), step: Some(step) };
    let mut subjects: Vec<Subject> = CASES.iter().map(|case| subject("brisk", case.name)).collect();
    if with_qemu {
        for (name, restores) in [("boot", false), ("restore, mapped-ram", true)] {
            let (slot, program, rest) = qemu(slots.len(), restores);
            own.extend(vmm::files(&program, &rest)?);
            slots.push(slot);
            subjects.push(subject("QEMU microvm", name));
        }
    }
    let plan = Plan {
        slots,
        boots: runs,
        besides: Besides::Exits,
        limit: LIMIT,
        shared: shared(brisk, with_qemu)?,
        place: Place::Lab(own.into_iter().collect()),
        to_the_end: false,
        placer: None,
    };
    let step = crate::ui::Step::start(&format!("{} rows in the lab", subjects.len()));
    let output = lab::run(&lab::Job {
        mode: lab::Mode::Stopwatch,
        script: plan.script(),
        hugepages: HUGE_PAGES,
        memory_mib: MEMORY,
        timeout: Duration::from_secs(1800),
        ..lab::Job::default()
    })?;
    step.done();
    ensure!(output.status == 0, "bench: the script failed in the lab:\n{}", output.console);
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (index, (subject, slot)) in subjects.iter().zip(&plan.slots).enumerate() {
        match row(&output.dir, index, runs, subject, slot) {
            Ok(row) => rows.push(row),
            Err(error) => failures.push(format!("{}: {error:#}", subject.vmm)),
        }
    }
    ensure!(!rows.is_empty(), "bench: nothing was measured:\n{}", failures.join("\n"));
    Ok((Report { clock: "lab", scenario: NAME.to_owned(), rows }, failures))
}

/// Starts `count` clones at once, and says what each takes.
///
/// # Errors
/// The lab failed, or a clone did.
pub fn density(count: u32) -> Result<String> {
    let files = shared(build::program(Some(FEATURES))?, false)?;
    let mut script = "mkdir -p /tmp/d; cd /tmp/d; set -u\n".to_owned();
    for (path, name) in &files {
        let _ = writeln!(script, "cp -L {} {name}", quote(&path_in_l1(path).to_string_lossy()));
    }
    let _ = write!(script, "N={count} LIMIT={}\n{DENSITY}", 60 + count);
    // As many guests as that on two emulated CPUs hang now and then; on the stopwatch's one they do not.
    let step = crate::ui::Step::start(&format!("{count} clones in the lab"));
    let output = lab::run(&lab::Job {
        mode: lab::Mode::Stopwatch,
        script,
        memory_mib: MEMORY,
        timeout: Duration::from_secs(600 + 10 * u64::from(count)),
        ..lab::Job::default()
    })?;
    step.done();
    let last = output.console.lines().rev().find(|line| line.starts_with("clones "));
    let Some(last) = last.filter(|_| output.status == 0) else {
        bail!("bench: --density {count}:\n{}", output.console)
    };
    let numbers: Vec<u64> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [all, failed, pss, own, microseconds] =
        numbers[..].try_into().ok().with_context(|| last.to_owned())?;
    ensure!(failed == 0, "bench: --density {count}: {failed} failed:\n{}", output.console);
    Ok(format!(
        "{all} clones at once on one CPU: {failed} failed; each {pss} KiB of the host's memory (PSS), \
         {own} KiB its own alone; all answered within {:.1} virtual ms of the first's start\n",
        // Far below 2^53.
        microseconds as f64 / 1000.0
    ))
}

/// A clone answers on its console, then sleeps for ever.
const DENSITY: &str = r#"
./brisk --kernel vmlinux --pmem file=erofs.new,discard_writes=on --cmdline 'root=/dev/pmem0 rootfstype=erofs rootflags=dax console=hvc0 quiet brisk.do=touch=1,out=80:a0,say=clone,out=80:60,hold' --console null --memory size=128M --snapshot path=snapshot,at=0xa0 || exit 1
now() { awk '{ printf "%d", $1 * 1000000 }' /proc/uptime; }
start=$(now) pids=
for i in $(seq $N); do
  ./brisk --restore snapshot --console file=console.$i < /dev/null 2> log.$i & pids="$pids $!"
done
for wait in $(seq $((LIMIT * 20))); do
  [ $(cat console.* 2> /dev/null | grep -c 'brisk-init: clone') -ge $N ] && break; sleep 0.05
done
took=$(($(now) - start)) failed=0 pss=0 own=0
sleep 1
for pid in $pids; do
  set -- $(awk '/^Pss:/ { p = $2 } /^Private_Dirty:|^Private_Clean:/ { o += $2 } END { print p + 0, o + 0 }' /proc/$pid/smaps_rollup 2> /dev/null)
  pss=$((pss + ${1:-0})) own=$((own + ${2:-0}))
done
for pid in $pids; do kill $pid 2> /dev/null; wait $pid || failed=$((failed + 1)); done
answered=$(cat console.* | grep -c 'brisk-init: clone')
[ $failed -ge $((N - answered)) ] || failed=$((N - answered))
cat log.* | sort | uniq -c
echo clones $N $failed $((pss / N)) $((own / N)) $took
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn shells_understand_all_of_it() {
        let mut slots: Vec<Slot> = CASES.iter().enumerate().map(|(i, case)| case.slot(i)).collect();
        slots.push(qemu(slots.len(), true).0);
        let prepared = slots.iter().filter_map(|slot| slot.prepare.clone());
        let commands = slots.iter().map(|slot| slot.command.clone());
        for text in prepared.chain(commands).chain([DENSITY.to_owned()]) {
            let check = Command::new("sh").args(["-n", "-c", &text]).status().unwrap();
            assert!(check.success(), "{text}");
        }
    }

    #[test]
    fn a_row_has_a_snapshot_of_its_own() {
        let slots: Vec<Slot> = CASES.iter().enumerate().map(|(i, case)| case.slot(i)).collect();
        assert!(slots[0].prepare.is_none() && !slots[0].command.contains("--restore"));
        let set = slots[2].prepare.as_deref().unwrap();
        assert!(set.contains("path=/bench/snapshot.2,at=0xa0"), "{set}");
        assert!(set.contains("source_url=file:///bench/snapshot.2,record=0x60"), "{set}");
        assert_eq!(slots[2].command, "/bench/brisk --restore /bench/snapshot.2 --console null");
        assert!(
            slots[5].prepare.as_deref().unwrap().contains("mount -t hugetlbfs none /bench/mount.5")
        );
    }
}
