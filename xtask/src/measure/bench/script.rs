//! The shell program that boots VMMs under the kernel's tracepoints, in L1 or on the host itself.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::lab::{path_in_l1, quote};

/// A VMM in one step of a scenario.
pub struct Slot {
    /// The program's path, as given to exec.
    pub program: String,
    /// The whole command, starting with the program.
    pub command: String,
    /// The shared file that each boot gets a copy of, as [`DISK`].
    pub disk: Option<&'static str>,
    /// What is run once before all boots, in the same place, untimed.
    pub prepare: Option<String>,
}

/// All that the script does.
pub struct Plan {
    /// What is booted, in this order and back, again and again.
    pub slots: Vec<Slot>,
    /// Boots of each slot. In the first more is traced, which takes time.
    pub boots: u32,
    /// What is traced besides.
    pub besides: Besides,
    /// Seconds until a VMM is ended whose guest does not reach its userspace.
    pub limit: u32,
    /// Files that the VMMs share: where they are now, and their names in [`Place::files`].
    pub shared: Vec<(PathBuf, String)>,
    /// Where the VMMs run.
    pub place: Place,
    /// Guests end by themselves, and are let to.
    pub to_the_end: bool,
    /// Where the kernel is to be in files of huge pages too: this program, which can do that.
    pub placer: Option<PathBuf>,
}

/// What is traced besides the exits from the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Besides {
    /// In the first boot the exits to the VMM.
    Exits,
    /// In the first boot all system calls and page faults, in the others the KVM_CREATE_VM.
    Setup,
}

impl Besides {
    /// What runs the first boot where its counts are to be exact: with an address that chance chooses, and
    /// with the user's environment on it, a stack of four pages has five now and then.
    fn fixed(self) -> &'static str {
        match self {
            Self::Exits => "",
            Self::Setup => "env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin setarch -R",
        }
    }

    /// Events of the first boot; the event that the others have instead, with its filter.
    fn events(self) -> [&'static str; 3] {
        match self {
            Self::Exits => ["kvm/kvm_mmio kvm/kvm_userspace_exit", "", ""],
            Self::Setup => [
                "sched/sched_process_fork syscalls exceptions/page_fault_user \
                 exceptions/page_fault_kernel",
                "syscalls/sys_enter_ioctl",
                "cmd==0xae01",
            ],
        }
    }
}

/// Where the VMMs run.
pub enum Place {
    /// In L1, from a root on its tmpfs that has nothing but the shared files and these, at their
    /// own paths: so no access to a file waits for the machine below. In the stopwatch a wait passes
    /// as the time to the next timer, which would be noise.
    Lab(Vec<PathBuf>),
    /// On this machine, with the shared files and the results in this directory, on a tmpfs.
    Host(PathBuf),
}

/// Root of the VMMs in L1.
const ROOT: &str = "/tmp/root";
/// The shared files below it.
const SHARED: &str = "/bench";
/// The file that guests may write to.
pub const DISK: &str = "disk.raw";
/// Trace buffer for each CPU in KiB. A boot has a few thousand events of some 100 bytes.
const BUFFER_KIB: u32 = 8192;

impl Place {
    /// The directory of the shared files, as the VMMs see it.
    pub fn files(&self) -> String {
        match self {
            Self::Lab(_) => SHARED.to_owned(),
            Self::Host(dir) => dir.display().to_string(),
        }
    }

    /// The same as the script sees it.
    fn outside(&self) -> String {
        match self {
            Self::Lab(_) => format!("{ROOT}{SHARED}"),
            Self::Host(dir) => dir.display().to_string(),
        }
    }

    /// The command that runs a shell script in this place for at most `limit` seconds. In L1 it must
    /// not touch the machine's files once the time runs: while L1 waits for them with nothing else to
    /// do, its clock goes to the next timer at once, which may be the limit's.
    fn shell(&self, limit: u32) -> String {
        match self {
            Self::Lab(_) => {
                format!("chroot {ROOT} /bin/busybox timeout -k 2 {limit} /bin/busybox sh")
            }
            Self::Host(_) => format!("timeout -k 2 {limit} sh"),
        }
    }

    /// The directory for results, as the script sees it.
    fn out(&self) -> String {
        match self {
            Self::Lab(_) => "/tmp/out".to_owned(),
            Self::Host(dir) => dir.display().to_string(),
        }
    }

    fn copy(&self, from: &Path, to: &str) -> String {
        let from = match self {
            Self::Lab(_) => path_in_l1(from),
            Self::Host(_) => from.to_path_buf(),
        };
        format!("put {} {}\n", quote(&from.to_string_lossy()), quote(to))
    }
}

/// Name of the result called `kind` (`trace`, `log` or `status`) of a slot's boot.
pub fn result(kind: &str, slot: usize, boot: u32) -> String {
    format!("{kind}.{slot}.{boot}")
}

impl Plan {
    /// The script.
    pub fn script(&self) -> String {
        let files = self.place.outside();
        let mut text = String::from(
            "set -u\nput() { mkdir -p \"${2%/*}\" && cp -L \"$1\" \"$2\" || exit 1; }\n",
        );
        if let Place::Lab(own) = &self.place {
            let _ = writeln!(text, "put \"$(command -v busybox)\" {ROOT}/bin/busybox");
            for dir in ["dev", "proc", "sys"] {
                let _ = writeln!(text, "mkdir -p {ROOT}/{dir}; mount --rbind /{dir} {ROOT}/{dir}");
            }
            let _ = writeln!(text, "mkdir -p {ROOT}/tmp {ROOT}/run");
            for path in own {
                text += &self.place.copy(path, &format!("{ROOT}{}", path.display()));
            }
        }
        for (from, name) in &self.shared {
            text += &self.place.copy(from, &format!("{files}/{name}"));
        }
        if let Some(placer) = &self.placer {
            let placer = match self.place {
                Place::Lab(_) => path_in_l1(placer),
                Place::Host(_) => placer.clone(),
            };
            let _ = writeln!(
                text,
                "mkdir {files}/hugetlbfs {files}/huge-tmpfs\n\
                 mount -t hugetlbfs -o pagesize=2M none {files}/hugetlbfs\n\
                 mount -t tmpfs -o huge=always none {files}/huge-tmpfs\n\
                 put {files}/vmlinux {files}/huge-tmpfs/vmlinux\n\
                 {} place {files}/vmlinux {files}/hugetlbfs/vmlinux > /dev/null || exit 1",
                quote(&placer.to_string_lossy())
            );
        }
        for (index, slot) in self.slots.iter().enumerate() {
            let _ = writeln!(text, "cat > {files}/{index}.sh <<'END'\nexec {}\nEND", slot.command);
        }
        let [more, mark, filter] = self.besides.events();
        let _ = write!(
            text,
            "FILES={files} INSIDE={} OUT={} DISK={DISK} TO_THE_END={}\nSHELL_THERE='{}' BUFFER={BUFFER_KIB}\n\
             more='{more}' mark='{mark}' mark_filter='{filter}' FIXED='{}'\n{FUNCTIONS}",
            self.place.files(),
            self.place.out(),
            if self.to_the_end { "yes" } else { "" },
            self.place.shell(self.limit),
            self.besides.fixed(),
        );
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(prepare) = &slot.prepare else { continue };
            let _ = writeln!(
                text,
                "cat > {files}/{index}.prepare.sh <<'END'\n{prepare}END\nprepare {index}"
            );
        }
        for boot in 0..self.boots {
            // There and back: whoever follows another has 0.05 ms more of set-up, with the same bytes.
            let mut order: Vec<_> = self.slots.iter().enumerate().collect();
            if boot % 2 == 1 {
                order.reverse();
            }
            for (index, slot) in order {
                let _ = writeln!(text, "boot {index} {boot} {}", slot.disk.unwrap_or_default());
            }
        }
        text += "finish\n";
        if self.placer.is_some() {
            let _ = writeln!(text, "umount {files}/hugetlbfs {files}/huge-tmpfs");
        }
        text
    }
}

/// Uses `/sys/kernel/tracing`: the main buffer holds what is measured; an instance of its own wakes
/// the reader that ends the VMM as soon as the guest's userspace is reached, so that a guest that
/// does not power itself off costs no time. Where guests end by themselves there is none, and the trace
/// gets a mark when the exit status is there. A slot that did not get there is not booted again.
const FUNCTIONS: &str = r#"
T=/sys/kernel/tracing M=$T/instances/brisk
[ -d $T/events/kvm ] || { echo "bench: no KVM tracepoints in $T"; exit 1; }
old_clock=$(sed 's/.*\[\(.*\)\].*/\1/' $T/trace_clock) old_buffer=$(sed 's/.*expanded: //; s/)//' $T/buffer_size_kb)
events="sched/sched_process_exec kvm/kvm_entry kvm/kvm_exit kvm/kvm_pio"
filter() { [ -z "$mark" ] || echo "$1" > $T/events/$mark/filter; }
enable() { v=$1; shift; for e; do echo $v > $T/events/$e/enable; done; }
finish() {
  filter 0; enable 0 $events $more $mark; echo 0 > $T/events/kvm/kvm_pio/filter; echo > $T/trace
  rmdir $M; echo $old_clock > $T/trace_clock; echo $old_buffer > $T/buffer_size_kb
  echo 1 > $T/tracing_on
}
echo 0 > $T/tracing_on
echo mono > $T/trace_clock
echo $BUFFER > $T/buffer_size_kb
mkdir -p $M
echo 'port==0x80&&val==0x60&&rw==1' > $M/events/kvm/kvm_pio/filter
echo 1 > $M/events/kvm/kvm_pio/enable
enable 1 $events
prepare() {
  $SHELL_THERE $INSIDE/$1.prepare.sh < /dev/null > $FILES/log 2>&1 && return
  echo "bench: slot $1 could not be prepared:"; cat $FILES/log; : > $FILES/given-up.$1
}
boot() {
  [ ! -e $FILES/given-up.$1 ] || return
  fixed=
  if [ $2 = 0 ]; then
    fixed=$FIXED; filter 0; enable 1 $more; echo 0 > $T/events/kvm/kvm_pio/filter
  else
    enable 0 $more; filter "$mark_filter"; enable 1 $mark; echo 'port==0x80&&(val==0x40||val==0x60||val==0x61)' > $T/events/kvm/kvm_pio/filter
  fi
  rm -f $FILES/serial $FILES/$DISK $FILES/log $FILES/reached
  [ -z "${3-}" ] || cp $FILES/$3 $FILES/$DISK
  echo > $T/trace; echo > $M/trace; echo 1 > $T/tracing_on
  $fixed $SHELL_THERE $INSIDE/$1.sh < /dev/null > $FILES/log 2>&1 & vmm=$!
  if [ -n "$TO_THE_END" ]; then
    wait $vmm; status=$?; echo "ended $status" > $T/trace_marker; echo 0 > $T/tracing_on
    [ $status != 0 ] || echo > $FILES/reached
  else
    ( read -r line < $M/trace_pipe; echo > $FILES/reached; kill $vmm ) 2> /dev/null & reader=$!
    wait $vmm; status=$?
    echo 0 > $T/tracing_on
    kill $reader 2> /dev/null; wait $reader 2> /dev/null
  fi
  echo $status > $OUT/status.$1.$2
  cat $T/trace > $OUT/trace.$1.$2
  [ -e $FILES/reached ] || : > $FILES/given-up.$1
  { cat $FILES/log; [ ! -e $FILES/serial ] || cat $FILES/serial; } > $OUT/log.$1.$2
}
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn plan(place: Place) -> Plan {
        let slot = |program: &str| Slot {
            program: program.to_owned(),
            command: format!("{program} --cmdline 'a b'"),
            disk: program.starts_with("/bench").then_some("ext4.new"),
            prepare: program.starts_with("/bench").then(|| "true\n".to_owned()),
        };
        Plan {
            slots: vec![slot("/bench/brisk"), slot("/usr/bin/qemu")],
            boots: 3,
            besides: Besides::Setup,
            limit: 20,
            shared: vec![
                ("/tmp/it's".into(), "vmlinux".to_owned()),
                ("/home/image".into(), "ext4.new".to_owned()),
            ],
            place,
            to_the_end: false,
            placer: Some("/home/xtask".into()),
        }
    }

    #[test]
    fn shells_understand_it() {
        for place in [Place::Lab(vec!["/lib/libc.so.6".into()]), Place::Host("/dev/shm/x".into())] {
            let text = plan(place).script();
            let check = Command::new("sh").args(["-n", "-c", &text]).status().unwrap();
            assert!(check.success(), "{text}");
        }
    }

    #[test]
    fn the_lab_has_a_root_of_its_own() {
        let text = plan(Place::Lab(vec!["/lib/libc.so.6".into()])).script();
        for line in [
            "put /lib/libc.so.6 /tmp/root/lib/libc.so.6",
            r"put '/run/host/tmp/it'\''s' /tmp/root/bench/vmlinux",
            "put /home/image /tmp/root/bench/ext4.new",
            "exec /usr/bin/qemu --cmdline 'a b'",
            "/home/xtask place /tmp/root/bench/vmlinux /tmp/root/bench/hugetlbfs/vmlinux > /dev/null \
             || exit 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
        let order = "boot 0 0 ext4.new\nboot 1 0 \nboot 1 1 \nboot 0 1 ext4.new\n\
                     boot 0 2 ext4.new\nboot 1 2 \nfinish\n";
        assert!(text.contains(order), "{text}");
    }

    #[test]
    fn what_is_counted_has_addresses_and_an_environment_that_do_not_change() {
        let text = plan(Place::Lab(Vec::new())).script();
        let fixed = "FIXED='env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin setarch -R'";
        assert!(text.contains(fixed) && text.contains("$fixed $SHELL_THERE"), "{text}");
        let timed = Plan { besides: Besides::Exits, ..plan(Place::Lab(Vec::new())) }.script();
        assert!(timed.contains("FIXED=''"), "{timed}");
    }

    #[test]
    fn the_host_keeps_its_files_together() {
        let text = plan(Place::Host("/dev/shm/x".into())).script();
        assert!(text.contains("put /home/image /dev/shm/x/ext4.new\n"), "{text}");
        assert!(!text.contains("chroot") && !text.contains("--rbind"), "{text}");
    }
}
