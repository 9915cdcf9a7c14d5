//! Host memory of an idle VM: what it takes beside the guest's own memory and image.

use anyhow::{Result, ensure};
use std::fs;

use crate::build;
use crate::cache::Cache;
use crate::guest::{images, kernel};
use crate::lab::On;
use crate::lab::{self, path_in_l1, quote};

/// The guest's memory.
const GUEST_KIB: u64 = 128 * 1024;

/// Measures, in KiB: the proportional share (PSS) of all mappings but the guest's memory and image.
///
/// # Errors
/// The guest did not come up.
pub fn measure(on: On) -> Result<f64> {
    let cache = Cache::open()?;
    let kernel = kernel::ensure(&cache, kernel::Config::Micro)?.vmlinux;
    let image = images::small(&cache)?.erofs;
    let brisk = build::program(Some(&["console", "pmem", "hugepages"]))?;
    let text = match on {
        On::Lab => {
            let at = |path: &std::path::Path| quote(&path_in_l1(path).to_string_lossy());
            let script = script(&at(&brisk), &at(&kernel), &at(&image), "/tmp/out");
            let output = lab::run(&lab::Job { script, hugepages: 64, ..lab::Job::default() })?;
            fs::read_to_string(output.dir.join("smaps")).unwrap_or_default()
        }
        On::Host => {
            let dir = tempfile::tempdir()?;
            let at = |path: &std::path::Path| quote(&path.to_string_lossy());
            let out = dir.path().to_string_lossy();
            duct::cmd!("sh", "-c", script(&at(&brisk), &at(&kernel), &at(&image), &out)).run()?;
            fs::read_to_string(dir.path().join("smaps")).unwrap_or_default()
        }
    };
    let kib = beside(&text);
    ensure!(kib > 0, "the idle guest: nothing was measured:\n{text}");
    Ok(kib as f64)
}

/// Boots a guest that says so when it is in userspace, and then sleeps for ever.
fn script(brisk: &str, kernel: &str, image: &str, out: &str) -> String {
    format!(
        "mkdir -p {out}/idle; cp {brisk} {out}/idle/brisk; cp {kernel} {out}/idle/vmlinux; \
         cp -L {image} {out}/idle/image\n\
         {out}/idle/brisk --kernel {out}/idle/vmlinux --pmem file={out}/idle/image,discard_writes=on \
         --cmdline 'root=/dev/pmem0 rootfstype=erofs rootflags=dax console=hvc0 quiet brisk.say \
         brisk.do=hold' --console file={out}/idle/console --memory size=128M < /dev/null &\n\
         vmm=$!\n\
         for i in $(seq 600); do grep -q userspace {out}/idle/console 2>/dev/null && break; sleep 0.1; done\n\
         sleep 1; cat /proc/$vmm/smaps > {out}/smaps; kill $vmm; wait $vmm\ntrue\n"
    )
}

/// The sum of PSS of all mappings but those of the guest.
fn beside(smaps: &str) -> u64 {
    let mut sum = 0;
    let mut guests = false;
    for line in smaps.lines() {
        let number = |key: &str| -> Option<u64> {
            line.strip_prefix(key)?.split_whitespace().next()?.parse().ok()
        };
        if let Some(size) = number("Size:") {
            // Guest memory, in one piece or several, and the image, which is the guest's memory too.
            guests |= size >= GUEST_KIB / 16;
        } else if let Some(pss) = number("Pss:") {
            sum += if guests { 0 } else { pss };
        } else if line.split('-').next().is_some_and(|word| word.len() >= 8)
            && line.chars().next().is_some_and(|c| c.is_ascii_hexdigit())
        {
            guests = line.ends_with("/image");
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_left_out() {
        let smaps = "7f00-7f10 r-xp 00000000 00:01 2 /brisk\n".to_owned();
        let map = |head: &str, size: u64, pss: u64| {
            format!("{head}\nSize:   {size} kB\nRss:  9 kB\nPss:  {pss} kB\nPss_Dirty: 7 kB\n")
        };
        let text = smaps
            + &map("00400000-00480000 r-xp 00000000 00:01 2 /out/idle/brisk", 512, 400)
            + &map(
                "7f0000000000-7f0008000000 rw-s 00000000 00:01 3 /memfd:guest (deleted)",
                GUEST_KIB,
                9000,
            )
            + &map(
                "7f1000000000-7f1000400000 rw-p 00000000 00:01 4 /tmp/out/idle/image",
                4096,
                800,
            )
            + &map("7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]", 132, 12);
        assert_eq!(beside(&text), 412);
    }

    #[test]
    fn shells_understand_it() {
        let text = script("'/a b'", "/k", "/i", "/tmp/out");
        assert!(
            std::process::Command::new("sh").args(["-n", "-c", &text]).status().unwrap().success()
        );
    }
}
