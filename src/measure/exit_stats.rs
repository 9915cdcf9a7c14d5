//! Exits to this process, counted by kind and port or address, and KVM's own counters of what it
//! handled by itself (feature `exit-stats`). KVM_GET_STATS_FD needs no root and no tracefs.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::config::Config;
use crate::kvm::{Vcpu, Vm};
use crate::measure::exit_kind::ExitKind;
use crate::output::Output;

/// KVM's counters are read at the end.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] =
    &[crate::seccomp::rule::Rule::call(libc::SYS_pread64)];

/// A guest that touches addresses at random costs no memory beyond this many rows.
const MAX_ROWS: usize = 512;
/// The register window of one device is one row.
const MMIO_ROW: u64 = !0xfff;

#[derive(Debug, PartialEq, Eq)]
struct Row {
    kind: ExitKind,
    address: u64,
    count: u64,
    /// How many of them no device answered.
    unclaimed: u64,
}

/// The counters.
pub struct ExitStats {
    rows: Vec<Row>,
    overflow: u64,
    /// Somebody wants to know.
    counts: bool,
    output: Option<Output>,
    /// KVM's counters of the VM, then of each vCPU.
    kvm: Vec<Option<File>>,
}

impl ExitStats {
    /// Starts counting; [`crate::output::open`] makes the file.
    pub fn start(config: &'static Config) -> ExitStats {
        let output = config.stats.as_deref().map(|path| Output::to("--stats", path));
        let counts = output.is_some() || config.api.is_some();
        ExitStats { rows: Vec::new(), overflow: 0, counts, output, kvm: Vec::new() }
    }

    /// Counts one exit; `address` is a port, or an address of which the page counts.
    pub fn count(&mut self, kind: ExitKind, address: u64, claimed: bool) {
        if !self.counts {
            return;
        }
        let address = match kind {
            ExitKind::MmioRead | ExitKind::MmioWrite => address & MMIO_ROW,
            _ => address,
        };
        let unclaimed = u64::from(!claimed);
        if let Some(row) =
            self.rows.iter_mut().find(|row| row.kind == kind && row.address == address)
        {
            row.count += 1;
            row.unclaimed += unclaimed;
        } else if self.rows.len() < MAX_ROWS {
            self.rows.push(Row { kind, address, count: 1, unclaimed });
        } else {
            self.overflow += 1;
        }
    }

    /// Opens KVM's counters. Later a vCPU that runs would keep us waiting for them.
    pub fn watch(&mut self, vm: &Vm, vcpus: &[Vcpu]) {
        if self.counts {
            let vcpus = vcpus.iter().map(Vcpu::counters);
            self.kvm = std::iter::once(vm.counters()).chain(vcpus).collect();
        }
    }

    /// Writes the file.
    pub fn finish(&mut self) {
        let Some(output) = self.output.take() else { return };
        let text = self.counters();
        if let Err(error) = output.write_all(text.as_bytes()) {
            log::error!("--stats: {error}");
        }
    }

    /// Our rows so far, then KVM's counters of the VM and of each vCPU.
    #[inline(never)]
    pub fn counters(&self) -> String {
        let mut text = self.json();
        text.push_str(",\"kvm\":{\"vm\":");
        for (at, counters) in self.kvm.iter().enumerate() {
            text.push_str(match at {
                0 => "",
                1 => ",\"vcpus\":[",
                _ => ",",
            });
            kvm_json(counters.as_ref(), &mut text);
        }
        text.push_str("]}}\n");
        text
    }

    fn json(&self) -> String {
        let total = self.rows.iter().map(|row| row.count).sum::<u64>() + self.overflow;
        let mut text = format!("{{\"userspace_exits\":{total},\"exits\":[");
        for (at, row) in self.rows.iter().enumerate() {
            let Row { kind, address, count, unclaimed } = row;
            let _ = write!(
                text,
                "{}{{\"kind\":\"{}\",\"address\":\"{address:#x}\",\"count\":{count},\
                 \"unclaimed\":{unclaimed}}}",
                if at > 0 { "," } else { "" },
                kind.name(),
            );
        }
        let _ = write!(text, "],\"exits_at_further_addresses\":{}", self.overflow);
        text
    }
}

/// One object of KVM's counters, `{}` where this KVM has none.
fn kvm_json(counters: Option<&File>, text: &mut String) {
    text.push('{');
    let mut first = true;
    for (name, value) in counters.and_then(kvm_counters).unwrap_or_default() {
        let _ = write!(text, "{}\"{name}\":{value}", if first { "" } else { "," });
        first = false;
    }
    text.push('}');
}

/// Reads the counters that a statistics file descriptor describes: struct kvm_stats_header, then
/// num_desc descriptors of a fixed part and a name, then the data (api.rst 4.133). Histograms are
/// left out.
fn kvm_counters(file: &File) -> Option<Vec<(String, u64)>> {
    let mut header = [0; 24];
    file.read_exact_at(&mut header, 0).ok()?;
    let name_size = u32_at(&header, 4)? as usize;
    let count = u32_at(&header, 8)? as usize;
    let descriptors_at = u32_at(&header, 16)?;
    let data_at = u64::from(u32_at(&header, 20)?);
    let size = 16 + name_size;
    let mut descriptors = vec![0; size.checked_mul(count)?];
    file.read_exact_at(&mut descriptors, descriptors_at.into()).ok()?;
    let mut counters = Vec::with_capacity(count);
    for descriptor in descriptors.chunks_exact(size) {
        let values = u16::from_le_bytes([*descriptor.get(6)?, *descriptor.get(7)?]);
        if values != 1 {
            continue;
        }
        let name: Vec<u8> = descriptor[16..].iter().copied().take_while(|&c| c != 0).collect();
        let mut value = [0; 8];
        let offset = u64::from(u32_at(descriptor, 8)?);
        file.read_exact_at(&mut value, data_at + offset).ok()?;
        counters.push((String::from_utf8(name).ok()?, u64::from_le_bytes(value)));
    }
    Some(counters)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_bounded_and_nothing_goes_uncounted() {
        let mut stats = ExitStats {
            rows: vec![],
            overflow: 0,
            counts: true,
            output: Some(Output::to("--stats", "/dev/null")),
            kvm: vec![],
        };
        for port in 0..1000 {
            stats.count(ExitKind::PioIn, port, port < 8);
        }
        stats.count(ExitKind::MmioRead, 0xd000_0004, true);
        assert_eq!(stats.rows.len(), MAX_ROWS);
        assert_eq!(stats.overflow, 1001 - MAX_ROWS as u64);
        assert!(stats.json().starts_with("{\"userspace_exits\":1001,"));
        assert!(
            stats
                .json()
                .contains("{\"kind\":\"pio_in\",\"address\":\"0x9\",\"count\":1,\"unclaimed\":1}")
        );
    }
}
