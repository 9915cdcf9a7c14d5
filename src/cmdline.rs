//! The kernel's command line: which parameters are added to the user's, and why.
//!
//! Each makes a boot shorter or its end clearer, and is added only where the user did not give its key. A
//! parameter that does nothing is not free: Linux compares each with every name that it knows, ten
//! times, which takes 0.1 ms. So `no_timer_check` is not here, as a kernel that knows KVM sets it itself,
//! nor `tsc=reliable`, as it trusts a TSC that never stops anyway.

use brisk_boot::{VirtioMmio, cmdline};

use crate::config::Config;
use crate::error::{Error, Result};

/// A panic ends the VM at once.
const PANIC_ENDS: &str = "panic=-1";
/// The kernel marks the reset after a panic as a warm one, by which it is told from a reboot.
const PANIC_IS_WARM: &str = "reboot=panic_warm";
/// The same where the kernel has no ACPI to reset by: port 0xcf9 instead of a keyboard controller
/// that is not there, which it would ask 655,360 times.
const PANIC_IS_WARM_BY_PORT: &str = "reboot=p,panic_warm";
/// Do not probe UARTs that are not there: there is one,
const ONE_UART: &str = "8250.nr_uarts=1";
/// or none.
const NO_UART: &str = "8250.nr_uarts=0";
/// No BSD pseudo terminals, `/dev/ptyp0` and its like, of which `CONFIG_LEGACY_PTYS` makes 256 with a
/// device each. Programs use `/dev/ptmx`.
const NO_LEGACY_PTYS: &str = "pty.legacy_count=0";
/// Where there is no PCI, do not look for it through ports 0xcf8 and 0xcfc.
const NO_PCI: &str = "pci=off";
/// Where there is, do not look for devices with quirks before the enhanced configuration space can be
/// used: 110 accesses to ports that do not answer, 0.95 ms in the lab. The price is a line in the
/// kernel's log, "PCI: Fatal: No config space access function found", though it finds one a little
/// later.
const NO_EARLY_PCI: &str = "pci=noearly";
/// No 64 MiB of buffers for devices that cannot reach RAM above 4 GiB, where there is some. virtio's can.
const NO_BOUNCE_BUFFERS: &str = "swiotlb=noforce";

/// What of the machine the parameters depend on.
pub struct Facts<'a> {
    /// The kernel has ACPI to find things by.
    pub acpi: bool,
    /// There is a UART.
    pub serial: bool,
    /// There is a PCI host bridge.
    pub pci: bool,
    /// There is RAM above 4 GiB.
    pub high_ram: bool,
    /// The virtio-mmio devices.
    pub virtio: &'a [VirtioMmio],
}

/// Whether the kernel that gets the user's line `line` has ACPI to find things by.
pub fn has_acpi(line: &str) -> bool {
    !cmdline::has(line.as_bytes(), b"acpi=off")
}

/// By which the kernel marks the reset after a panic.
fn panic_word(acpi: bool) -> &'static str {
    if acpi { PANIC_IS_WARM } else { PANIC_IS_WARM_BY_PORT }
}

/// Whether a panic marks itself as a warm reset: the line has our word for it. Not asked before a guest
/// ends with such a one, and of one that was restored too.
pub fn panic_is_warm(config: &Config) -> bool {
    let word = panic_word(has_acpi(&config.cmdline));
    let mut line = Default::default();
    !config.cmdline_exact
        && cmdline::with_defaults(config.cmdline.as_bytes(), &[word], &mut line).is_ok()
        && cmdline::has(&line, word.as_bytes())
}

/// Makes the line, without the NUL, from what the user gave.
///
/// # Errors
/// A byte that Linux does not take, or too many.
pub fn make(config: &Config, facts: &Facts<'_>) -> Result<Vec<u8>> {
    let user = config.cmdline.as_bytes();
    let wrong = |error| Error::usage(format!("--cmdline: {error}"));
    if config.cmdline_exact {
        cmdline::check(user).map_err(wrong)?;
        return Ok(user.to_vec());
    }
    let mut words = vec![
        PANIC_ENDS,
        panic_word(facts.acpi),
        if facts.serial { ONE_UART } else { NO_UART },
        NO_LEGACY_PTYS,
        if facts.pci { NO_EARLY_PCI } else { NO_PCI },
    ];
    config.devices.add_parameters(&mut words);
    if facts.high_ram {
        words.push(NO_BOUNCE_BUFFERS);
    }
    let devices = if facts.acpi { &[] } else { facts.virtio };
    let devices: Vec<String> = devices.iter().map(device_word).collect();
    words.extend(devices.iter().map(String::as_str));
    let mut line = Default::default();
    cmdline::with_defaults(user, &words, &mut line).map_err(wrong)?;
    Ok(line.to_vec())
}

/// A device for a kernel that cannot find it by ACPI (Linux, `drivers/virtio/virtio_mmio.c`).
fn device_word(device: &VirtioMmio) -> String {
    format!("virtio_mmio.device={}@{:#x}:{}", device.size, device.base, device.gsi)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: VirtioMmio = VirtioMmio { base: 0xd000_0000, size: 4096, gsi: 5 };
    const USUAL: Facts<'_> =
        Facts { acpi: true, serial: true, pci: false, high_ram: false, virtio: &[DEVICE] };

    fn line(user: &str, facts: &Facts<'_>) -> (String, bool) {
        let config = Config { cmdline: user.into(), ..Config::default() };
        let line = make(&config, facts).unwrap();
        (String::from_utf8(line).unwrap(), panic_is_warm(&config))
    }

    #[test]
    fn words_for_what_there_is() {
        let both = "pty.legacy_count=0";
        assert_eq!(
            line("quiet", &USUAL).0,
            format!("quiet panic=-1 reboot=panic_warm 8250.nr_uarts=1 {both} pci=off")
        );
        let facts = Facts { serial: false, pci: true, high_ram: true, ..USUAL };
        assert_eq!(
            line("", &facts).0,
            format!(
                "panic=-1 reboot=panic_warm 8250.nr_uarts=0 {both} pci=noearly swiotlb=noforce"
            )
        );
        let facts = Facts { acpi: false, ..USUAL };
        assert_eq!(
            line("acpi=off", &facts).0,
            format!(
                "acpi=off panic=-1 reboot=p,panic_warm 8250.nr_uarts=1 {both} pci=off \
                 virtio_mmio.device=4096@0xd0000000:5"
            )
        );
    }

    #[test]
    fn a_panic_is_only_told_from_a_reboot_by_our_own_word() {
        for (user, warm) in [("", true), ("panic=5", true), ("reboot=t", false)] {
            assert_eq!(line(user, &USUAL).1, warm, "{user}");
        }
        let config = Config { cmdline: "a".into(), cmdline_exact: true, ..Config::default() };
        assert_eq!(make(&config, &USUAL).unwrap(), b"a");
        assert!(!panic_is_warm(&config));
        let config = Config { cmdline_exact: false, ..config };
        assert!(panic_is_warm(&config));
    }

    #[test]
    fn a_line_that_linux_does_not_take_names_the_flag() {
        for cmdline_exact in [false, true] {
            let config = Config { cmdline: "a\tb".into(), cmdline_exact, ..Config::default() };
            let error = make(&config, &USUAL).unwrap_err();
            assert_eq!(error.status(), 2);
            assert!(error.to_string().starts_with("--cmdline: "), "{error}");
        }
    }
}
