//! The values of flags: what one comes to says the same when it is written out again.
#![no_main]

use brisk::config::{self, MemoryConfig, Output, PageSize, Seccomp, Transport};
use brisk::snapshot::SnapshotConfig;
use brisk::virtio::block::DiskConfig;
use brisk::virtio::pmem::PmemConfig;
use brisk::virtio::rng::RngConfig;
use brisk_fuzz::text;
use libfuzzer_sys::fuzz_target;

fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

fn memory(text: &str) {
    let Ok(config) = MemoryConfig::parse(text) else { return };
    let MemoryConfig { size, hugepages, thp, prefault, shared } = &config;
    let (prefault, shared) = (on_off(*prefault), on_off(*shared));
    let mut again = format!("size={size},prefault={prefault},shared={shared}");
    if let Some(pages) = hugepages {
        assert_ne!(*thp, Some(true));
        let pages = if *pages == PageSize::Size1G { "1G" } else { "2M" };
        again += &format!(",hugepages=on,hugepage_size={pages}");
    }
    if let Some(thp) = thp {
        again += &format!(",thp={}", on_off(*thp));
    }
    assert_eq!(MemoryConfig::parse(&again).ok(), Some(config));
}

fn disk(text: &str) {
    let Ok(config) = DiskConfig::parse(text) else { return };
    let DiskConfig { path, readonly, direct, io_uring } = &config;
    assert!(!path.is_empty() && !path.contains(','));
    let (readonly, direct) = (on_off(*readonly), on_off(*direct));
    let engine = if *io_uring { "io_uring" } else { "sync" };
    let again = format!("engine={engine},direct={direct},readonly={readonly},path={path}");
    assert_eq!(DiskConfig::parse(&again).ok(), Some(config));
}

fn pmem(text: &str) {
    let Ok(config) = PmemConfig::parse(text) else { return };
    let again = format!("discard_writes={},file={}", on_off(config.discard_writes), config.path);
    assert!(config.part.is_none());
    assert_eq!(PmemConfig::parse(&again).ok(), Some(config));
}

fn snapshot(text: &str) {
    let Ok(config) = SnapshotConfig::parse(text, true) else { return };
    let then = if config.goes_on { "go-on" } else { "exit" };
    let at = config.at.map_or(String::new(), |at| format!("at={at:#x},"));
    let again = format!("then={then},{at}path={}", config.path);
    assert_eq!(SnapshotConfig::parse(&again, true).ok(), Some(config));
}

fn output(text: &str) {
    match Output::parse("--serial", text) {
        Ok(Output::File(path)) => assert_eq!(format!("file={path}"), text),
        Ok(_) => assert!(["off", "null", "tty"].contains(&text)),
        Err(error) => assert!(error.to_string().contains(text)),
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (which, text) = (input.0, text::value(input.1));
    match which % 10 {
        0 => memory(&text),
        1 => disk(&text),
        2 => pmem(&text),
        3 => snapshot(&text),
        4 => output(&text),
        5 => {
            if let Ok((cpus, nested)) = config::parse_cpus(&text) {
                assert!((1..=254).contains(&cpus));
                let again = format!("nested={},boot={cpus}", on_off(nested));
                assert_eq!(config::parse_cpus(&again).ok(), Some((cpus, nested)));
            }
        }
        6 => {
            if let Ok(config) = RngConfig::parse(&text) {
                assert_eq!(RngConfig::parse(&format!("src={}", config.src)).ok(), Some(config));
            }
        }
        7 => assert_eq!(
            Transport::parse(&text).is_ok(),
            ["mmio", "pci", "pci-ports"].contains(&&*text)
        ),
        8 => {
            assert_eq!(Seccomp::parse(&text).is_ok(), ["true", "false", "log"].contains(&&*text))
        }
        _ => {
            assert_eq!(config::parse_protocol(&text).is_ok(), ["pvh", "linux64"].contains(&&*text))
        }
    }
});
