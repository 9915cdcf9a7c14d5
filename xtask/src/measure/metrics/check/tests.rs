use super::*;

fn line(n: u64, clock: &str, values: &[f64], npf: u64) -> Line {
    let metric = Metric {
        s: values.to_vec(),
        parts: Some([values[0] / 2.0, values[0] / 4.0, values[0] / 4.0]),
        exits: [("npf".to_owned(), (npf, 1.0)), ("interrupt".to_owned(), (n, 0.1))].into(),
        ..Metric::default()
    };
    Line {
        v: 1,
        suite: "metrics".into(),
        vmm: "brisk".into(),
        version: format!("c{n}"),
        n,
        clock: clock.into(),
        metrics: [("boot_time_ms".to_owned(), metric)].into(),
        ..Line::default()
    }
}

fn verdict(lines: &[Line], new: &Line) -> Verdict {
    compare(lines, new)[0].verdict
}

#[test]
fn beyond_the_noise_is_a_change() {
    let lines: Vec<Line> = (1..5).map(|n| line(n, "lab", &[50.0 + n as f64 * 0.01], 7)).collect();
    assert_eq!(verdict(&lines, &line(9, "lab", &[50.05], 7)), Verdict::Same);
    assert_eq!(verdict(&lines, &line(9, "lab", &[50.3], 7)), Verdict::Worse);
    assert_eq!(verdict(&lines, &line(9, "lab", &[49.7], 7)), Verdict::Better);
    assert_eq!(verdict(&[], &line(9, "lab", &[49.7], 7)), Verdict::CannotTell);
    assert_eq!(verdict(&lines, &line(9, "host", &[49.7], 7)), Verdict::CannotTell);
    // What chance added to one of its boots is none.
    assert_eq!(verdict(&lines, &line(9, "lab", &[50.4, 50.02, 50.3], 7)), Verdict::Same);
    assert_eq!(verdict(&lines, &line(9, "lab", &[50.4, 50.3, 50.35], 7)), Verdict::Worse);
    // Not compared with what was before the last change.
    let mut lines = lines;
    lines.extend((5..8).map(|n| line(n, "lab", &[40.0], 7)));
    assert_eq!(verdict(&lines, &line(9, "lab", &[45.0], 7)), Verdict::Worse);
    // Nor with another kernel.
    let mut other = line(9, "lab", &[60.0], 7);
    other.kernels.insert("guest".into(), "6.13".into());
    lines[6].kernels.insert("guest".into(), "6.12".into());
    assert_eq!(compare(&lines[6..], &other)[0].verdict, Verdict::CannotTell);
}

#[test]
fn it_says_where_the_difference_lies() {
    let lines = [line(1, "lab", &[40.0], 7)];
    let new = line(2, "lab", &[44.0], 10);
    let findings = compare(&lines, &new);
    let text = render(&new, &findings);
    for part in [
        "WORSE boot_time_ms: 40 to 44, +10.00 %",
        "set-up +2.00 ms, guest +1.00 ms, host +1.00 ms",
        "exits by npf +3, exits by interrupt +1",
        "1 worse, 0 better, 0 the same",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert_eq!(format!("{:?}", status(&findings)), format!("{:?}", ExitCode::from(1)));
    let none = compare(&[], &new);
    assert_eq!(format!("{:?}", status(&none)), format!("{:?}", ExitCode::from(2)));
    let same = compare(&lines, &line(3, "lab", &[40.0], 7));
    assert_eq!(format!("{:?}", status(&same)), format!("{:?}", ExitCode::SUCCESS));
}

#[test]
fn rates_are_better_when_they_are_more() {
    assert_eq!(judge(10.0, 12.0, 1.0, Better::More), Verdict::Better);
    assert_eq!(judge(10.0, 8.0, 1.0, Better::More), Verdict::Worse);
    assert_eq!(judge(10.0, 10.05, 1.0, Better::More), Verdict::Same);
}

#[test]
fn exact_counts_have_no_noise_but_the_timers() {
    let lines = [line(1, "lab", &[40.0], 7)];
    let of = |npf| exact(&lines, &line(30, "lab", &[80.0], npf))[0].verdict;
    assert_eq!([of(7), of(8), of(6)], [Verdict::Same, Verdict::Worse, Verdict::Better]);
}

#[test]
fn real_clocks_need_a_significant_difference() {
    let run = |n: u64, base: f64| {
        let wobble = [0.3, -0.4, 0.1, -0.2, 0.4, 0.0, -0.1];
        line(n, "host", &wobble.map(|w| base + w + (n % 3) as f64 * 0.1), 7)
    };
    let lines: Vec<Line> = (1..8).map(|n| run(n, 20.0)).collect();
    assert_eq!(verdict(&lines, &run(9, 20.0)), Verdict::Same);
    assert_eq!(verdict(&lines, &run(9, 22.0)), Verdict::Worse);
    assert_eq!(verdict(&lines, &run(9, 18.0)), Verdict::Better);
}
