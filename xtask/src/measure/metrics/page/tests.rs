use super::*;

fn line(n: u64, vmm: &str, value: f64) -> Line {
    let metric = Metric {
        s: vec![value, value + 0.02],
        control: "256 MiB, 1 vCPU, guest kernel, initramfs".into(),
        parts: Some([1.0, value - 3.0, 2.0]),
        exits: [("npf".to_owned(), (n, 1.0))].into(),
        ..Metric::default()
    };
    Line {
        v: 1,
        suite: METRICS.into(),
        vmm: vmm.into(),
        version: format!("c{n}"),
        subject: format!("commit </script> {n}"),
        n,
        clock: "lab".into(),
        kernels: [("guest".to_owned(), "6.12".to_owned())].into(),
        metrics: [("boot_time_ms".to_owned(), metric)].into(),
        ..Line::default()
    }
}

#[test]
fn a_series_has_its_changes_and_peers() {
    let mut lines = vec![line(1, "brisk", 61.0), line(2, "brisk", 61.01), line(3, "brisk", 43.0)];
    lines.push(line(3, "QEMU microvm", 148.0));
    let data = data(&lines);
    let [series] = &data.metrics[..] else { panic!("one series") };
    assert_eq!((series.points.len(), series.changes.len(), series.peers.len()), (3, 1, 1));
    let change = &series.changes[0];
    assert_eq!((change.at, change.verdict), (2, "better"));
    assert!(change.parts.contains("guest -18.01 ms"), "{}", change.parts);
    assert_eq!(series.points[0].kernel, "guest 6.12");
    // What chance added to most boots of a run is no change, as it is none to `metrics check`.
    let mut shaken = line(4, "brisk", 43.0);
    shaken.metrics.values_mut().for_each(|metric| metric.s = vec![43.4, 43.0, 43.5]);
    lines.insert(3, shaken);
    assert_eq!(super::data(&lines).metrics[0].changes.len(), 1);
    lines.remove(3);
    // Another kernel is another series: no change of brisk's.
    lines[2].kernels.insert("guest".into(), "6.13".into());
    assert!(super::data(&lines).metrics[0].changes.is_empty());
}

#[test]
fn nothing_in_the_data_ends_the_script() {
    let page = render(&data(&[line(1, "brisk", 61.0)]), &["LIB".into(), "CSS".into()]).unwrap();
    assert!(page.contains("commit \\u003c/script> 1"));
    for part in ["LIB", "CSS", "boot_time_ms"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("/*DATA*/"));
}
