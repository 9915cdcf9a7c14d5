//! Lanes as an SVG. Names that do not fit into their boxes stand below the lane, each at the end of
//! a line from its box.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::{Lane, kinds};

/// Pixels.
const WIDTH: f64 = 1400.0;
const LEFT: f64 = 90.0;
/// Room for names at the right end.
const RIGHT: f64 = 170.0;
const ROW: f64 = 24.0;
const LABEL: f64 = 15.0;
/// About as wide as a letter is at this size.
const LETTER: f64 = 6.3;
/// Fill and outline of each lane's boxes.
const COLOURS: [[&str; 2]; 5] = [
    ["#cfe2f7", "#3f76ad"],
    ["#d9eed0", "#4f8a36"],
    ["#fbe3c2", "#b5792a"],
    ["#e7daf4", "#7a52a8"],
    ["#f8d7da", "#a94a54"],
];
/// A name that comes more often than this in a lane is not written below it.
const OFTEN: usize = 8;
/// In a lane of more boxes than this, such as a vCPU's exits, those narrower than a pixel have names
/// only where the pointer is over them.
const MANY: usize = 40;

/// A part of the time.
struct Panel<'a> {
    title: &'a str,
    from: f64,
    to: f64,
    /// A part of this part that has a panel of its own, and so no names here.
    elsewhere: Option<(f64, f64)>,
}

/// A name below a lane, and where the line to it begins.
struct Callout {
    x: f64,
    y: f64,
    text: String,
    colour: &'static str,
}

/// The picture.
pub fn draw(lanes: &[Lane], title: &str) -> String {
    let rows = kinds::legend(lanes);
    let mut all: Vec<Lane> = lanes.to_vec();
    all.extend(kinds::guest(lanes));
    let lanes = &all;
    let end = last(lanes);
    let whole = Panel { title: "the whole boot", from: 0.0, to: end, elsewhere: None };
    let mut body = String::new();
    let mut y = 34.0;
    let _ = writeln!(body, "<text x=\"12\" y=\"24\" font-size=\"16\">{}</text>", escape(title));
    match setup(lanes).filter(|setup| *setup < end * 0.4) {
        Some(setup) => {
            let zoom = setup * 1.02;
            y = panel(&mut body, lanes, &Panel { elsewhere: Some((0.0, zoom)), ..whole }, y);
            let part = Panel {
                title: "set-up, the shaded part: until the guest's first instruction",
                from: 0.0,
                to: zoom,
                elsewhere: None,
            };
            y = panel(&mut body, lanes, &part, y + 16.0);
        }
        None => y = panel(&mut body, lanes, &whole, y),
    }
    y = legend(&mut body, &rows, y + 8.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y:.0}\" \
         viewBox=\"0 0 {WIDTH} {y:.0}\" font-family=\"DejaVu Sans, sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// What the colours of exits mean, how many there were, and how long all took. Returns where it ends.
fn legend(body: &mut String, rows: &[kinds::Row], top: f64) -> f64 {
    let mut y = top;
    for kinds::Row { text, colours: [fill, outline], count, total } in rows {
        let _ = writeln!(
            body,
            "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"12\" height=\"10\" fill=\"{fill}\" \
             stroke=\"{outline}\"/><text x=\"{:.1}\" y=\"{:.1}\">{count} exits, {}: {}</text>",
            LEFT + 18.0,
            y + 9.0,
            duration(*total),
            escape(text)
        );
        y += LABEL + 2.0;
    }
    y
}

/// When the last event ends.
fn last(lanes: &[Lane]) -> f64 {
    let spans = lanes.iter().flat_map(|lane| lane.spans.iter().map(|span| span.end));
    let instants = lanes.iter().flat_map(|lane| lane.instants.iter().map(|(_, at)| *at));
    spans.chain(instants).fold(1.0, f64::max)
}

/// When the guest was entered first.
fn setup(lanes: &[Lane]) -> Option<f64> {
    let instants = lanes.iter().flat_map(|lane| &lane.instants);
    let mut entries = instants.filter(|(name, _)| name.replace([' ', '_'], "-") == "first-entry");
    entries.next().map(|(_, at)| *at)
}

/// Draws a panel from `y` down. Returns where it ends.
fn panel(body: &mut String, lanes: &[Lane], panel: &Panel<'_>, top: f64) -> f64 {
    let x =
        |time: f64| LEFT + (time - panel.from) / (panel.to - panel.from) * (WIDTH - LEFT - RIGHT);
    let mut lines = String::new();
    let mut y = top + 40.0;
    for (index, lane) in lanes.iter().enumerate() {
        let [fill, outline] = COLOURS[index % COLOURS.len()];
        let (boxes, callouts, rows) = lane_boxes(lane, panel, &x, y, [fill, outline]);
        if rows == 0 {
            continue; // nothing of this thread is in this part
        }
        let bottom = y + rows as f64 * ROW;
        let _ = writeln!(
            lines,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-weight=\"bold\">{}</text>",
            LEFT - 10.0,
            y + 16.0,
            escape(&lane.name)
        );
        lines += &boxes;
        y = below(&mut lines, callouts, bottom) + 10.0;
        let _ = writeln!(
            lines,
            "<path d=\"M12 {0:.1}H{1:.1}\" stroke=\"#ddd\"/>",
            y - 4.0,
            WIDTH - 12.0
        );
    }
    let _ = writeln!(
        body,
        "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
        top + 14.0,
        escape(panel.title)
    );
    if let Some((from, to)) = panel.elsewhere {
        let _ = writeln!(
            body,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#eee\"/>",
            x(from),
            top + 34.0,
            x(to) - x(from),
            y - top - 38.0
        );
    }
    let step = tick(panel.to - panel.from);
    let mut at = (panel.from / step).ceil() * step;
    while at <= panel.to {
        let _ = writeln!(
            body,
            "<path d=\"M{0:.1} {1:.1}V{2:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{0:.1}\" y=\"{3:.1}\" text-anchor=\"middle\" fill=\"#666\">{4}</text>",
            x(at),
            top + 34.0,
            y - 4.0,
            top + 30.0,
            if at == 0.0 { "0".to_owned() } else { duration(at) }
        );
        at += step;
    }
    body.push_str(&lines);
    y
}

/// A lane's boxes and lines, what is to be written below them, and the number of rows of boxes.
fn lane_boxes(
    lane: &Lane,
    panel: &Panel<'_>,
    x: &dyn Fn(f64) -> f64,
    y: f64,
    [fill, outline]: [&'static str; 2],
) -> (String, Vec<Callout>, usize) {
    let (mut text, mut callouts, mut rows) = (String::new(), Vec::new(), 0);
    let mut names: HashMap<&str, usize> = HashMap::new();
    lane.spans.iter().for_each(|span| *names.entry(&span.name).or_default() += 1);
    let is_here = |start: f64, end: f64| end >= panel.from && start <= panel.to;
    let is_elsewhere =
        |end: f64| panel.elsewhere.is_some_and(|(from, to)| end >= from && end <= to);
    for (index, span) in lane.spans.iter().enumerate() {
        if !is_here(span.start, span.end) {
            continue;
        }
        // Pieces of the same kind, one behind the other, are told apart by every second one's shade.
        let twin = lane.spans.get(index.wrapping_sub(1)).is_some_and(|last| last.name == span.name);
        let exit = kinds::colours(&span.name);
        let [fill, outline] = exit.unwrap_or([fill, outline]);
        let opacity = if twin && exit.is_none() && index % 2 == 1 { "0.5" } else { "1" };
        let (left, right) = (x(span.start.max(panel.from)), x(span.end.min(panel.to)));
        let (top, width) = (y + span.depth as f64 * ROW, (right - left).max(0.8));
        rows = rows.max(span.depth + 1);
        let (name, took) = (escape(&span.name), duration(span.end - span.start));
        let _ = writeln!(
            text,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\" \
             fill=\"{fill}\" fill-opacity=\"{opacity}\" stroke=\"{outline}\" stroke-width=\"0.7\"><title>{name}, {took}</title>\
             </rect>",
            ROW - 4.0
        );
        let full = format!("{} {took}", span.name);
        let fits = |text: &str| text.chars().count() as f64 * LETTER + 10.0 <= width;
        if let Some(inside) = [full.as_str(), &span.name].into_iter().find(|text| fits(text)) {
            let _ = writeln!(
                text,
                "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left + 4.0,
                top + 14.0,
                escape(inside)
            );
        } else if !is_elsewhere(span.end)
            && names.get(span.name.as_str()) <= Some(&OFTEN)
            && (lane.spans.len() <= MANY || width > 1.0)
        {
            let y = top + ROW - 4.0;
            callouts.push(Callout {
                x: left + width.min(6.0) / 2.0,
                y,
                text: full,
                colour: outline,
            });
        }
    }
    for (name, at) in lane.instants.iter().filter(|(_, at)| is_here(*at, *at)) {
        rows = rows.max(1);
        if is_elsewhere(*at) {
            continue;
        }
        let text = format!("{name} at {}", duration(*at));
        callouts.push(Callout { x: x(*at), y: y - 2.0, text, colour: "#c0392b" });
    }
    (text, callouts, rows)
}

/// Writes names below `top`, so that no name and no line to one crosses another: from right to left,
/// each into the first row that is still free to the right of it. Returns where the last row ends.
fn below(text: &mut String, mut callouts: Vec<Callout>, top: f64) -> f64 {
    callouts.sort_by(|a, b| b.x.total_cmp(&a.x));
    let mut starts: Vec<f64> = Vec::new();
    for callout in &callouts {
        let ends = callout.x + 8.0 + callout.text.chars().count() as f64 * LETTER;
        let free = starts.iter().position(|start| ends < *start);
        let row = free.unwrap_or(starts.len());
        match starts.get_mut(row) {
            Some(start) => *start = callout.x,
            None => starts.push(callout.x),
        }
        let y = top + row as f64 * LABEL + 8.0;
        let _ = writeln!(
            text,
            "<path d=\"M{0:.1} {1:.1}V{y:.1}h3\" fill=\"none\" stroke=\"{2}\" stroke-width=\"0.8\"/>\
             <text x=\"{3:.1}\" y=\"{4:.1}\" fill=\"{2}\">{5}</text>",
            callout.x,
            callout.y,
            callout.colour,
            callout.x + 5.0,
            y + 4.0,
            escape(&callout.text)
        );
    }
    top + starts.len() as f64 * LABEL + 4.0
}

/// A round step for an axis of some ten lines.
fn tick(length: f64) -> f64 {
    let power = 10f64.powf((length / 10.0).log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| power * factor * 10.0 >= length);
    power * factor.unwrap_or(10.0)
}

/// Microseconds with a unit, three digits that matter.
fn duration(microseconds: f64) -> String {
    let (value, unit) = if microseconds >= 1000.0 {
        (microseconds / 1000.0, "ms")
    } else {
        (microseconds, "\u{b5}s")
    };
    let decimals = match value {
        v if v >= 100.0 || v == v.round() => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::lanes;
    use super::super::tests::TRACE;
    use super::*;

    #[test]
    fn every_name_is_drawn_and_escaped() {
        let text = draw(&lanes(TRACE).unwrap(), "a & b");
        for word in ["a &amp; b", ">vmm<", ">loader<", ">vcpu0<", "kernel &lt;load&gt; 500 µs"] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        assert!(text.contains("userspace at 49.9 ms") && text.contains("first-entry at 901 µs"));
        // The guest's own time, parted.
        assert!(text.contains(">guest<") && text.contains("until userspace 49.0 ms"), "{text}");
        // Two panels: the set-up is too small to be seen in the first.
        assert_eq!(text.matches(">vmm<").count(), 2);
        assert_eq!(text.matches("<text").count(), text.matches("</text>").count());
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn names_below_a_lane_do_not_overlap() {
        let names = |xs: &[f64]| {
            let callout = |&x| Callout { x, y: 0.0, text: "x".repeat(10), colour: "red" };
            let mut text = String::new();
            let end = below(&mut text, xs.iter().map(callout).collect(), 100.0);
            ((end - 104.0) / LABEL).round() as usize
        };
        assert_eq!(names(&[]), 0);
        assert_eq!(names(&[100.0, 300.0, 500.0]), 1);
        assert_eq!(names(&[100.0, 110.0, 120.0]), 3);
        assert_eq!(names(&[100.0, 110.0, 300.0, 310.0]), 2);
    }

    #[test]
    fn axes_and_durations() {
        assert_eq!([tick(100.0), tick(101.0), tick(45.0), tick(7.0)], [10.0, 20.0, 5.0, 1.0]);
        let all = [0.25, 42.0, 999.4, 1500.0, 12_345.0, 123_456.0].map(duration);
        assert_eq!(all, ["0.25 µs", "42 µs", "999 µs", "1.50 ms", "12.3 ms", "123 ms"]);
    }
}
