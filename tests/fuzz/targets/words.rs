//! The command line: what it comes to, and that a snapshot saves all of it.
#![no_main]

use std::ffi::OsString;
use std::fs;
use std::sync::OnceLock;

use brisk::cli::{self, Command};
use brisk::config::Config;
use brisk::snapshot::parts::{Kind, Writer};
use brisk_fuzz::text;
use libfuzzer_sys::fuzz_target;

/// A snapshot's directory, in memory; of which only the command line is ever read.
fn snapshot() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = format!("/dev/shm/brisk-fuzz-words-{}", std::process::id());
        fs::create_dir_all(&path).expect("a directory in memory");
        fs::write(format!("{path}/memory"), "").expect("a file in memory");
        path
    })
}

/// What is of the machine, and not of one run of it.
fn machine(config: &Config) -> String {
    let Config { kernel, initramfs, cmdline, cmdline_exact, protocol, cpus, nested, .. } = config;
    let Config { memory, devices, transport, serial, .. } = config;
    format!(
        "{kernel:?} {initramfs:?} {cmdline:?} {cmdline_exact} {protocol:?} {cpus} {nested} \
         {memory:?} {devices:?} {transport:?} {serial:?}"
    )
}

fuzz_target!(|input: &[u8]| {
    let words = text::arguments(input);
    let config = match cli::parse(words.clone()) {
        Ok(Command::Run(config)) => config,
        Ok(Command::Print(text)) => return assert!(!text.is_empty()),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let restores = words.iter().any(|word| word.to_string_lossy().contains("--restore"));
            assert!(error.status() == 2 || (restores && error.status() == 1), "{error}");
            return;
        }
    };
    assert!((1..=254).contains(&config.cpus));
    assert!(config.memory.hugepages.is_none() || config.memory.thp != Some(true));
    let Some(saved) = &config.snapshot else { return };
    let path = snapshot();
    let mut state = Writer::default();
    state.add(Kind::Arguments, 0, &saved.arguments);
    fs::write(format!("{path}/state"), state.finish()).expect("a file in memory");
    let again = ["--restore", path].map(OsString::from);
    match cli::parse(again.to_vec()) {
        Ok(Command::Run(restored)) => assert_eq!(machine(&restored), machine(&config)),
        Ok(Command::Print(text)) => panic!("a snapshot's command line prints {text}"),
        Err(error) => panic!("a snapshot's own command line: {error}"),
    }
});
