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
use crate::guest::{images, init, python};
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

/// What the guest does: it is saved at 0xa0, and marks with 0x60. So does our init's first act, at which a
/// boot of it ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Our init has 1 MiB of its own, and marks at once.
    First,
    /// The same with a pass over that memory in between.
    Pass,
    /// A Python that has imported what a service needs reads a request from its console, and marks when
    /// its answer is out (`xtask/guest/answer.py`).
    Answer,
}

/// What Python is asked: a line of brisk's standard input, or, where it boots, its argument.
const REQUEST: &str = "[19,23]";

impl Does {
    /// The image that it is in, and what its kernel is told of it.
    fn root(self) -> (&'static str, &'static str) {
        match self {
            Does::First => ("erofs.new", " brisk.do=touch=1,out=80:a0,out=80:60,poweroff"),
            Does::Pass => ("erofs.new", " brisk.do=touch=1,out=80:a0,pass,out=80:60,poweroff"),
            Does::Answer => ("python.new", ""),
        }
    }

    /// brisk's console, and its standard input where that is not empty.
    fn console(self) -> String {
        match self {
            Does::First | Does::Pass => "null".to_owned(),
            Does::Answer => format!("tty < {DIR}/request"),
        }
    }
}

/// How a row gets to its mark.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Boot,
    Restore,
    /// With what a run before recorded until the mark.
    WorkingSet,
    /// From a tmpfs whose pages are of 2 MiB, with the image on it too.
    HugeTmpfs,
    /// The same with what a run before recorded.
    HugeWorkingSet,
    /// From a hugetlbfs.
    Hugetlbfs,
}

/// A row of brisk's.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    how: How,
    does: Does,
    memory: &'static str,
}

const fn case(name: &'static str, how: How, does: Does, memory: &'static str) -> Case {
    Case { name, how, does, memory }
}

const CASES: &[Case] = &[
    case("boot", How::Boot, Does::First, "128M"),
    case("restore", How::Restore, Does::First, "128M"),
    case("restore, working set", How::WorkingSet, Does::First, "128M"),
    case("restore, a tmpfs's huge pages", How::HugeTmpfs, Does::First, "128M"),
    case("restore, both", How::HugeWorkingSet, Does::First, "128M"),
    case("restore, hugetlbfs", How::Hugetlbfs, Does::First, "128M"),
    case("pass over 1 MiB: restore", How::Restore, Does::Pass, "128M"),
    case("pass over 1 MiB: working set", How::WorkingSet, Does::Pass, "128M"),
    case("pass over 1 MiB: a tmpfs's huge pages", How::HugeTmpfs, Does::Pass, "128M"),
    case("pass over 1 MiB: both", How::HugeWorkingSet, Does::Pass, "128M"),
    case("pass over 1 MiB: hugetlbfs", How::Hugetlbfs, Does::Pass, "128M"),
    case("4 GiB: restore", How::Restore, Does::First, "4G"),
    case("4 GiB: working set", How::WorkingSet, Does::First, "4G"),
    case("Python's answer: boot", How::Boot, Does::Answer, "128M"),
    case("Python's answer: restore", How::Restore, Does::Answer, "128M"),
    case("Python's answer: working set", How::WorkingSet, Does::Answer, "128M"),
    case("Python's answer: a tmpfs's huge pages", How::HugeTmpfs, Does::Answer, "128M"),
    case("Python's answer: both", How::HugeWorkingSet, Does::Answer, "128M"),
];

/// Huge pages that L1 has: the memory of three guests at most, and what they write to.
const HUGE_PAGES: u32 = 256;
/// L1's memory in MiB: brisk refuses a guest that is larger than its host.
const MEMORY: u32 = 6144;

impl Case {
    /// From the image in a directory; `more` is for the kernel's command line.
    fn boots(&self, program: &str, images: &str, more: &str) -> String {
        let (image, does) = self.does.root();
        format!(
            "{program} --kernel {DIR}/vmlinux --pmem file={images}/{image},discard_writes=on --cmdline \
             'root=/dev/pmem0 rootfstype=erofs rootflags=dax console=hvc0 quiet{does}{more}' \
             --memory size={} --console {}",
            self.memory,
            self.does.console()
        )
    }

    fn slot(&self, index: usize) -> Slot {
        let program = format!("{DIR}/brisk");
        let mut prepare = "set -e\n".to_owned();
        if self.does == Does::Answer {
            let _ = writeln!(prepare, "echo '{REQUEST}' > {DIR}/request");
        }
        let (mount, at) = match self.how {
            How::Boot => {
                let asks = self.does == Does::Answer;
                let more = if asks { format!(" -- {REQUEST}") } else { String::new() };
                let command = self.boots(&program, DIR, &more);
                return Slot { program, command, disk: None, prepare: Some(prepare) };
            }
            How::HugeTmpfs | How::HugeWorkingSet => {
                (Some("-t tmpfs -o huge=always"), format!("{DIR}/mount.{index}"))
            }
            How::Hugetlbfs => (Some("-t hugetlbfs"), format!("{DIR}/mount.{index}")),
            _ => (None, DIR.to_owned()),
        };
        let snapshot = format!("{at}/snapshot.{index}");
        let mut images = DIR;
        if let Some(mount) = mount {
            let _ = writeln!(prepare, "busybox mkdir {at}\nbusybox mount {mount} none {at}");
        }
        if matches!(self.how, How::HugeTmpfs | How::HugeWorkingSet) {
            let _ = writeln!(prepare, "busybox cp {DIR}/{} {at}/", self.does.root().0);
            images = &at;
        }
        let _ = writeln!(
            prepare,
            "{} --snapshot path={snapshot},at=0xa0",
            self.boots(&program, images, "")
        );
        let console = self.does.console();
        if matches!(self.how, How::WorkingSet | How::HugeWorkingSet) {
            let _ = writeln!(
                prepare,
                "{program} --restore source_url=file://{snapshot},record=0x60 --console {console}"
            );
        }
        let command = format!("{program} --restore {snapshot} --console {console}");
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

/// The files that each guest of our own needs.
fn shared(cache: &Cache, brisk: PathBuf) -> Result<Vec<(PathBuf, String)>> {
    let files = [
        (brisk, "brisk"),
        (kernel::ensure(cache, Config::Micro)?.vmlinux, "vmlinux"),
        (images::small(cache)?.erofs, "erofs.new"),
    ];
    Ok(files.map(|(path, name)| (path, name.to_owned())).into())
}

/// Measures all rows.
///
/// # Errors
/// Something could not be built, or nothing was measured.
pub fn measure(runs: u32, with_qemu: bool) -> Result<(Report, Vec<String>)> {
    of(CASES, runs, with_qemu)
}

/// Measures brisk's rows of these names alone, in the order of the table.
///
/// # Errors
/// As [`measure`], or one of them came to nothing.
pub fn measure_only(names: &[&str], runs: u32) -> Result<Report> {
    let cases: Vec<Case> =
        CASES.iter().filter(|case| names.contains(&case.name)).copied().collect();
    let (report, failures) = of(&cases, runs, false)?;
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(report)
}

fn of(cases: &[Case], runs: u32, with_qemu: bool) -> Result<(Report, Vec<String>)> {
    debian::ensure(&debian::ALL)?;
    let cache = Cache::open()?;
    let brisk = build::program(Some(FEATURES))?;
    let mut own: BTreeSet<PathBuf> = vmm::files(&brisk, "")?;
    own.remove(&brisk);
    let mut files = shared(&cache, brisk)?;
    if cases.iter().any(|case| case.does == Does::Answer) {
        files.push((python::ensure(&cache)?, "python.new".to_owned()));
    }
    let mut slots: Vec<Slot> = cases.iter().enumerate().map(|(i, case)| case.slot(i)).collect();
    let subject = |vmm: &str, step| Subject { vmm: vmm.to_owned(), step: Some(step) };
    let mut subjects: Vec<Subject> = cases.iter().map(|case| subject("brisk", case.name)).collect();
    if with_qemu {
        let guest = kernel::ensure(&cache, Config::Guest)?.vmlinux;
        files.push((guest, "vmlinux-guest".to_owned()));
        files.push((init::ensure(&cache)?.initramfs, "initramfs".to_owned()));
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
        shared: files,
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
    debian::ensure(&debian::ALL)?;
    let files = shared(&Cache::open()?, build::program(Some(FEATURES))?)?;
    let mut script = "mkdir -p /tmp/d; cd /tmp/d; set -u\n".to_owned();
    for (path, name) in &files {
        let _ = writeln!(script, "cp -L {} {name}", quote(&path_in_l1(path).to_string_lossy()));
    }
    let _ = write!(script, "N={count} LIMIT={}\n{DENSITY}", 60 + count);
    let step = crate::ui::Step::start(&format!("{count} clones in the lab"));
    let output = lab::run(&lab::Job {
        mode: lab::Mode::InTurn,
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
    let [all, failed, pss, own, microseconds, cpus] =
        numbers[..].try_into().ok().with_context(|| last.to_owned())?;
    ensure!(failed == 0, "bench: --density {count}: {failed} failed:\n{}", output.console);
    Ok(format!(
        "{all} clones at once on {cpus} CPUs: {failed} failed; each {pss} KiB of the host's memory (PSS), \
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
echo clones $N $failed $((pss / N)) $((own / N)) $took $(nproc)
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
        assert!(!slots[0].prepare.as_deref().unwrap().contains("--snapshot"));
        assert!(!slots[0].command.contains("--restore"));
        let set = slots[2].prepare.as_deref().unwrap();
        assert!(set.contains("path=/bench/snapshot.2,at=0xa0"), "{set}");
        assert!(set.contains("source_url=file:///bench/snapshot.2,record=0x60"), "{set}");
        assert_eq!(slots[2].command, "/bench/brisk --restore /bench/snapshot.2 --console null");
        assert!(
            slots[5].prepare.as_deref().unwrap().contains("mount -t hugetlbfs none /bench/mount.5")
        );
    }

    #[test]
    fn python_is_asked() {
        let answers = CASES.iter().enumerate().filter(|(_, case)| case.does == Does::Answer);
        for (index, case) in answers {
            let slot = case.slot(index);
            assert!(slot.command.contains("--console tty < /bench/request"), "{}", slot.command);
            let prepare = slot.prepare.unwrap();
            assert!(prepare.contains("echo '[19,23]' > /bench/request\n"), "{prepare}");
            assert_eq!(prepare.contains("/python.new,discard"), case.how != How::Boot);
            assert_eq!(slot.command.contains("quiet -- [19,23]' "), case.how == How::Boot);
        }
    }
}
