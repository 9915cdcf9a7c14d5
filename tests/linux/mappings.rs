//! What the tuned kernels let themselves do to their own memory: their page tables, walked in the memory
//! of a guest that has reached its userspace. Their linker script has less padding than Linux' own
//! (`xtask/kernel/linker-padding.patch`), so that what may be written, read and run shares 2 MiB.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::common::{Running, key, wait_for};
use super::{Guest, artifact};

/// `__START_KERNEL_map` and, without KASLR, `page_offset_base` (Linux, `Documentation/arch/x86/x86_64/mm.rst`).
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;

/// Bits of a page table's entry (Intel SDM 3A, 4.5).
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LEAF: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A page of the kernel half.
struct Page {
    start: u64,
    len: u64,
    writable: bool,
    executable: bool,
}

/// All present pages below `table`, whose entries are for `1 << shift` bytes each, from `base` up. What
/// forbids a thing at any level forbids it.
fn walk(memory: &File, table: u64, shift: u32, base: u64, limits: u64, pages: &mut Vec<Page>) {
    let mut entries = [0; 4096];
    memory.read_exact_at(&mut entries, table & ADDRESS).expect("a table in guest memory");
    let first = if shift == 39 { 256 } else { 0 };
    for (index, entry) in entries.chunks_exact(8).enumerate().skip(first) {
        let entry = u64::from_le_bytes(entry.try_into().expect("8 bytes"));
        if entry & PRESENT == 0 {
            continue;
        }
        let start = base | (index as u64) << shift;
        let limits = limits & entry & WRITABLE | (limits | entry) & NO_EXECUTE;
        if shift == 12 || entry & LEAF != 0 {
            let (writable, executable) = (limits & WRITABLE != 0, limits & NO_EXECUTE == 0);
            pages.push(Page { start, len: 1 << shift, writable, executable });
        } else {
            walk(memory, entry, shift - 9, start, limits, pages);
        }
    }
}

fn check(name: &str, more: &[&str]) {
    let map = fs::read_to_string(artifact(&format!("{name}_MAP"))).expect("a System.map");
    let symbols: HashMap<&str, u64> = map
        .lines()
        .filter_map(|line| {
            let (address, rest) = line.split_once(' ')?;
            Some((rest.split_once(' ')?.1, u64::from_str_radix(address, 16).ok()?))
        })
        .collect();

    let mut guest = Guest::doing("");
    guest.kernel = artifact(name);
    guest.memory = "size=128M,shared=on";
    guest.cmdline = "console=hvc0 quiet brisk.do=say=asleep,hold".into();
    guest.serial = "off".into();
    let console = key("file", guest.scratch.path("serial"));
    let guest = guest.with(&["--console", &console]).with(more);
    let running = Running::start(&mut guest.command());
    wait_for("the guest", || guest.output().contains("asleep"));
    let of_process = format!("/proc/{}/fd", running.id());
    let memory = fs::read_dir(of_process)
        .expect("descriptors")
        .map(|entry| entry.expect("a descriptor").path())
        .find(|fd| fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().contains("brisk-ram")))
        .map(|fd| File::open(fd).expect("guest memory"))
        .expect("a memfd");
    let mut pages = Vec::new();
    let root = symbols["init_top_pgt"] - KERNEL_MAP;
    walk(&memory, root, 39, 0xffff_0000_0000_0000, WRITABLE, &mut pages);
    running.signal(libc::SIGTERM);
    running.end().silent().with_status(0);

    for page in &pages {
        let text = format!("{name}: {:#x}, {:#x} bytes", page.start, page.len);
        assert!(!(page.writable && page.executable), "{text}: writable and executable");
    }
    // What all pages are that have a part of `from..to`, in both mappings of the kernel.
    let all = |what: &str, from: u64, to: u64, writable: bool, executable: bool| {
        assert!(from < to, "{name}: {what}");
        for (base, executable) in [(KERNEL_MAP, executable), (DIRECT_MAP, false)] {
            let (start, end) = (from - KERNEL_MAP + base, to - KERNEL_MAP + base);
            let mut covered = 0;
            for page in pages.iter().filter(|p| p.start < end && p.start + p.len > start) {
                covered += end.min(page.start + page.len) - start.max(page.start);
                let text = format!("{name}: {what}: {:#x}, {:#x} bytes", page.start, page.len);
                assert_eq!(page.writable, writable, "{text}: writable");
                assert_eq!(page.executable, executable, "{text}: executable");
            }
            assert_eq!(covered, end - start, "{name}: {what} is not all mapped");
        }
    };
    let at = |symbol: &str| symbols[symbol];
    all("text", at("_text"), at("_etext"), false, true);
    all("read-only data", at("__start_rodata"), at("__end_rodata"), false, false);
    all("data", at("_sdata"), at("_edata"), true, false);
    // The one page behind them that Linux protects once it is filled.
    let idt = at("idt_table");
    all("the IDT", idt, idt + 4096, false, false);
    all("what follows the IDT", idt + 4096, at("__bss_stop"), true, false);
}

#[test]
fn micro() {
    check("BRISK_MICRO", &[]);
}

#[cfg(feature = "smp")]
#[test]
fn micro_smp() {
    check("BRISK_MICRO_SMP", &["--cpus", "boot=2"]);
}
