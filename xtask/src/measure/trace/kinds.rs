//! What tells parts of the picture apart: exits by their kind, which the legend counts, and the guest's own
//! time by what it wrote to port 0x80.

use super::{Lane, Span};

/// Kinds of exits as the trace names them (`src/measure/exit_kind.rs`), in words, with fill and outline.
const KINDS: [(&str, &str, [&str; 2]); 5] = [
    ("pio_in", "a port is read", ["#9ecae1", "#2171b5"]),
    ("pio_out", "a port is written", ["#fdae6b", "#a63603"]),
    ("mmio_read", "a device's register is read", ["#a1d99b", "#238b45"]),
    ("mmio_write", "a device's register is written", ["#e7969c", "#843c39"]),
    ("interrupted", "a signal", ["#bcbddc", "#54278f"]),
];

/// Fill and outline of an exit.
pub fn colours(name: &str) -> Option<[&'static str; 2]> {
    KINDS.iter().find(|(kind, ..)| is(name, kind)).map(|(_, _, colours)| *colours)
}

fn is(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// A row of the legend.
#[derive(Debug, PartialEq)]
pub struct Row {
    /// What is said.
    pub text: String,
    /// Fill and outline.
    pub colours: [&'static str; 2],
    /// How many there were.
    pub count: usize,
    /// Microseconds of all.
    pub total: f64,
}

/// The kinds of exits that there are, in all lanes together.
pub fn legend(lanes: &[Lane]) -> Vec<Row> {
    let rows = KINDS.iter().map(|(kind, text, colours)| {
        let spans = lanes.iter().flat_map(|lane| &lane.spans).filter(|span| is(&span.name, kind));
        let (count, total) =
            spans.fold((0, 0.0), |(count, total), span| (count + 1, total + span.end - span.start));
        Row { text: format!("{kind}: {text}"), colours: *colours, count, total }
    });
    rows.filter(|row| row.count > 0).collect()
}

/// The guest's time from its first instruction on, parted at each point that it wrote to port 0x80. `None`
/// where it wrote nothing.
pub fn guest(lanes: &[Lane]) -> Option<Lane> {
    let mut points: Vec<(&str, f64)> = lanes
        .iter()
        .flat_map(|lane| &lane.instants)
        .map(|(name, at)| (name.as_str(), *at))
        .collect();
    points.sort_by(|a, b| a.1.total_cmp(&b.1));
    let start =
        points.iter().position(|(name, _)| name.replace([' ', '_'], "-") == "first-entry")?;
    let points = points.get(start..)?;
    let part = |pair: &[(&str, f64)]| match pair {
        [(_, start), (name, end)] => {
            Some(Span { name: format!("until {name}"), start: *start, end: *end, depth: 0 })
        }
        _ => None,
    };
    let spans: Vec<Span> = points.windows(2).filter_map(part).collect();
    (!spans.is_empty()).then(|| Lane { name: "guest".to_owned(), spans, instants: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::super::lanes;
    use super::super::tests::TRACE;
    use super::*;

    #[test]
    fn exits_by_their_kind() {
        assert_eq!(colours("pio_out 0x80"), Some(["#fdae6b", "#a63603"]));
        assert_eq!((colours("pio_outer"), colours("run")), (None, None));
        let span = |name: &str, start, end| Span { name: name.into(), start, end, depth: 1 };
        let spans = vec![
            span("pio_in 0x64", 1.0, 3.0),
            span("run", 0.0, 9.0),
            span("pio_in 0x71", 4.0, 5.0),
        ];
        let lanes = [Lane { name: "vcpu0".into(), spans, instants: Vec::new() }];
        let [row] = &legend(&lanes)[..] else { panic!("one row") };
        assert_eq!((&*row.text, row.count, row.total), ("pio_in: a port is read", 2, 3.0));
    }

    #[test]
    fn the_guests_time_is_parted_where_it_says_so() {
        let guest = guest(&lanes(TRACE).unwrap()).unwrap();
        let spans: Vec<_> = guest.spans.iter().map(|s| (&*s.name, s.start, s.end)).collect();
        assert_eq!(spans, [("until userspace", 901.0, 49_900.0)]);
        assert!(super::guest(&[]).is_none());
    }

    #[test]
    fn the_kinds_are_the_products() {
        let path = crate::paths::workspace().join("src/measure/exit_kind.rs");
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.matches(" => \"").count(), KINDS.len());
        for (kind, ..) in KINDS {
            assert!(text.contains(&format!(" => \"{kind}\"")), "{kind}");
        }
    }
}
