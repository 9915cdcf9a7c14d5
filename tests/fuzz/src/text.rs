//! Text that is more often a command line than chance has it: of each byte from 128 up a word comes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// What flags, keys and values are made of.
const TOKENS: &[&str] = &[
    "--kernel",
    "--initramfs",
    "--cmdline",
    "--cmdline-exact",
    "--boot-protocol",
    "--cpus",
    "--memory",
    "--disk",
    "--pmem",
    "--rng",
    "--transport",
    "--serial",
    "--console",
    "--boot-log",
    "--timeline",
    "--stats",
    "--trace",
    "--seccomp",
    "--snapshot",
    "--restore",
    "--log-level",
    "--exit-status",
    "--help",
    "--version",
    "path=",
    "file=",
    "size=",
    "boot=",
    "nested=",
    "readonly=",
    "direct=",
    "engine=",
    "discard_writes=",
    "hugepages=",
    "hugepage_size=",
    "thp=",
    "prefault=",
    "shared=",
    "src=",
    "at=",
    "then=",
    "source_url=",
    "images=",
    "on",
    "off",
    "true",
    "false",
    "log",
    "null",
    "tty",
    "streams",
    "sync",
    "io_uring",
    "mmio",
    "pci",
    "pci-ports",
    "pvh",
    "linux64",
    "exit",
    "go-on",
    "any",
    "same",
    "file://",
    "512M",
    "16M",
    "2M",
    "1G",
    "99999999999T",
    "254",
    "0x80",
    "256",
    "=",
    ",",
    "\"",
    "\u{10ff2c}",
    "/dev/null",
    "warn",
    "record=",
];

/// The text's bytes: what is below 128 is itself, [`TOKENS`] follow, and the rest is no UTF-8.
fn expand(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for &byte in bytes {
        let token = byte.checked_sub(128).map(|token| TOKENS.get(usize::from(token)));
        match token {
            Some(Some(token)) => text.extend_from_slice(token.as_bytes()),
            _ => text.push(byte),
        }
    }
    text
}

/// Arguments of a process: a zero byte ends each.
pub fn arguments(bytes: &[u8]) -> Vec<OsString> {
    bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(expand(word))).collect()
}

/// A value, as [`brisk::cli::words`] hands it on.
pub fn value(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&expand(bytes)).into_owned()
}
