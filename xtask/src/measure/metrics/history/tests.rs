use super::*;

/// The first line ever written, as it was.
const FIRST: &str = include_str!("first.jsonl");

#[test]
fn the_first_line_ever_written_is_read() {
    let lines = parse(FIRST).unwrap();
    let line = &lines[0];
    assert_eq!((line.v, &*line.suite, &*line.vmm), (1, "metrics", "brisk"));
    let boot = &line.metrics["boot_time_ms"];
    assert_eq!(boot.s, [42.718, 42.732]);
    assert_eq!(boot.value(), Some(42.725));
    assert_eq!((boot.count(), boot.parts), (525, Some([6.93, 30.35, 5.44])));
    let rate = &line.metrics["block_read_MiBps"];
    assert_eq!((&*rate.unit, rate.better), ("MiB/s", Better::More));
    // What is written now is what was written then.
    assert_eq!(line.text().unwrap(), FIRST.trim_end());
}

#[test]
fn lines_of_the_future_and_broken_ones_are_named() {
    let newer = FIRST.replace("\"v\":1", "\"v\":2");
    let error = parse(&format!("{FIRST}{newer}")).unwrap_err().to_string();
    assert!(error.starts_with("line 2: of version 2"), "{error}");
    assert!(parse("{\n").unwrap_err().to_string().contains("line 1"));
    assert!(parse("").unwrap().is_empty());
    let more = FIRST.replacen("{", "{\"later\":7,", 1);
    assert_eq!(parse(&more).unwrap(), parse(FIRST).unwrap());
}

#[test]
fn lines_are_short_and_ordered() {
    let mut line = parse(FIRST).unwrap().remove(0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("h");
    assert!(read(&file).unwrap().is_empty());
    append(&file, &line).unwrap();
    line.n = 1;
    append(&file, &line).unwrap();
    let read_back = read(&file).unwrap();
    assert_eq!(read_back.iter().map(|line| line.n).collect::<Vec<_>>(), [1, 66]);
    for index in 0..400 {
        line.metrics.insert(format!("metric_{index}"), Metric::default());
    }
    assert!(line.text().unwrap_err().to_string().contains("8192 is the limit"));
    // A run that is too long is several lines, and one again.
    fs::write(&file, "").unwrap();
    append(&file, &Line { version: "before".into(), n: 0, ..parse(FIRST).unwrap().remove(0) })
        .unwrap();
    append(&file, &line).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.lines().count() >= 3 && text.lines().all(|line| line.len() < LONGEST));
    let mut lines = read(&file).unwrap();
    let mut last = take_last(&mut lines).unwrap();
    last.metrics.sort_keys();
    line.metrics.sort_keys();
    assert_eq!(last, line);
    assert_eq!((lines.len(), &*take_last(&mut lines).unwrap().version), (1, "before"));
    assert_eq!(take_last(&mut lines), None);
}

#[test]
fn the_newest_of_each_vmm_in_the_order_of_a_table() {
    let line = |vmm: &str, names: [&str; 2], value: f64| Line {
        suite: "talk".into(),
        vmm: vmm.into(),
        clock: "lab".into(),
        metrics: names
            .map(|name| (name.to_owned(), Metric { s: vec![value], ..Metric::default() }))
            .into(),
        ..Line::default()
    };
    let lines =
        [line("b", ["z", "a"], 1.0), line("a", ["z", "a"], 2.0), line("b", ["z", "a"], 3.0)];
    let found = newest(&lines, "talk").unwrap();
    let found: Vec<_> = found.iter().map(|e| (&*e.vmm, &*e.name, e.metric.s[0])).collect();
    assert_eq!(found, [("b", "z", 3.0), ("b", "a", 3.0), ("a", "z", 2.0), ("a", "a", 2.0)]);
    assert!(newest(&lines, "micro").unwrap_err().to_string().contains("nothing of micro"));
}

#[test]
fn the_history_of_this_checkout_is_whole() {
    let lines = read(&path()).unwrap();
    assert!(lines.iter().all(|line| line.text().is_ok()));
}
