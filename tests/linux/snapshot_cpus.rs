//! A Linux of several CPUs that is saved, and goes on as often as one likes, on all of them.

use std::time::Instant;

use super::snapshot::{nonce, restore, save_at};
use super::{Guest, artifact};

/// What a shell does in the place of our init. On each CPU a process of its own counts, and notes the time
/// of each count, in hundredths of a second. `report` has each of them count on, one after the other, and gives
/// one up that has not in ten seconds; it is on the first CPU, so that another that stands still does not keep
/// it from saying so. `stty` waits until all is printed. The initramfs' own init, where another one started
/// it, writes the code.
///
/// No double quotes: they are around it on the kernel's command line.
const SCRIPT: &str = r"
/bin/busybox --install -s /bin;
mount -t proc proc /proc;
work() {
    i=0; t=0;
    while :; do
        read u x </proc/uptime; u=${u%.*}${u#*.};
        [ $u -lt $t ] && echo time ran backwards;
        t=$u; i=$((i+1)); echo $i $u >/cpu$1;
    done;
};
count() { until read n u </cpu$1; do :; done; };
report() {
    cat /proc/sys/kernel/random/boot_id; grep processor /proc/cpuinfo;
    for c in $all; do
        count $c; from=$n; k=0;
        until [ $n -gt $((from+10)) ] || [ $k = 100 ]; do usleep 100000; k=$((k+1)); count $c; done;
        echo cpu $c from $from to $n at $u;
    done;
};
taskset -p 1 $$ >/dev/null;
for c in $all; do
    : >/cpu$c; work $c & taskset -p $(printf %x $((1<<c))) $! >/dev/null;
done;
report; echo brisk-init: before; stty -echo;
/init;
report; echo brisk-init: after; stty echo;
poweroff -f
";

/// The code of our init.
const CODE: &str = "0x60";

/// `guest` with that many CPUs and the script.
fn with_cpus(mut guest: Guest, cpus: usize) -> Guest {
    let all: Vec<String> = (0..cpus).map(|cpu| cpu.to_string()).collect();
    let script = SCRIPT.split_whitespace().collect::<Vec<_>>().join(" ");
    guest.initramfs = Some(artifact("BRISK_SHELL_INITRAMFS"));
    let (console, _) = guest.cmdline.split_once(' ').expect("a console, and more");
    let all = all.join(" ");
    guest.cmdline =
        format!("{console} quiet rdinit=/bin/busybox -- sh -c \"all='{all}'; {script}\"");
    guest.with(&["--cpus", &format!("boot={cpus}")])
}

/// What one CPU's process did while `report` waited for it.
#[derive(Debug)]
struct Work {
    cpu: usize,
    from: u64,
    to: u64,
    at: u64,
}

impl Work {
    /// `cpu 1 from 20 to 31 at 123`
    fn of(line: &str) -> Option<Work> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["cpu", cpu, "from", from, "to", to, "at", at] = words[..] else { return None };
        let number = |word: &str| word.parse().expect("a number");
        Some(Work {
            cpu: cpu.parse().expect("a CPU"),
            from: number(from),
            to: number(to),
            at: number(at),
        })
    }
}

/// All `cpus` are there and work, in this order.
#[track_caller]
fn all_work(text: &str, cpus: usize) -> Vec<Work> {
    assert_eq!(text.matches("processor\t:").count(), cpus, "not all are online: {text}");
    assert!(!text.contains("backwards"), "{text}");
    let work: Vec<Work> = text.lines().filter_map(Work::of).collect();
    assert!(work.iter().map(|one| one.cpu).eq(0..cpus), "{text}");
    for one in &work {
        assert!(one.to > one.from + 10, "CPU {} stands still: {text}", one.cpu);
    }
    work
}

/// Each clone is the same guest, in which each CPU goes on with what it did. Whichever is asked for the time
/// says none that is before another's earlier answer, and all that has passed outside, and no more.
#[track_caller]
fn all_go_on(guest: &Guest, cpus: usize, device: &str) {
    let begin = Instant::now();
    let dir = save_at(guest, CODE);
    let saved = Instant::now();
    let before = guest.output();
    let then = all_work(&before, cpus);
    for _ in 0..2 {
        let gap = hundredths(saved);
        let after = restore(guest, &dir, device, &[]);
        let all = hundredths(begin);
        let now = all_work(&after, cpus);
        assert_eq!(nonce(&after), nonce(&before), "not the same guest");
        let mut times = then.iter().chain(&now).map(|one| one.at);
        assert!(times.is_sorted(), "{then:?}, {now:?}");
        for (then, now) in then.iter().zip(&now) {
            assert!(now.from >= then.to, "its memory is not what it was: {then:?}, {now:?}");
            let passed = now.at - then.at;
            assert!((gap..=all + 1).contains(&passed), "{gap} to {all}: {then:?}, {now:?}");
        }
    }
}

fn hundredths(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64 / 10
}

#[test]
fn a_guest_of_two_cpus() {
    all_go_on(&with_cpus(Guest::doing(""), 2), 2, "--serial");
}

#[cfg(feature = "console")]
#[test]
fn a_guest_of_four_cpus() {
    let guest = super::snapshot::tuned("BRISK_MICRO_SMP", "", &[]);
    all_go_on(&with_cpus(guest, 4), 4, "--console");
}
