//! The talk's ladder as a picture, time and exits for each step as on its slide: brisk beside Cloud
//! Hypervisor, from the history. Its colours are those of the page around it, light or dark.

use std::fmt::Write as _;

use crate::build::docs::thousands;

/// A step of the ladder.
pub struct Step {
    /// What it is called.
    pub name: String,
    /// brisk's.
    pub ours: Bar,
    /// Cloud Hypervisor's.
    pub theirs: Bar,
}

/// What one VMM needs.
pub struct Bar {
    /// Milliseconds until userspace.
    pub ms: Option<f64>,
    /// Exits; 0 where they were not counted.
    pub exits: u64,
}

/// Pixels.
const WIDTH: f64 = 860.0;
const TOP: f64 = 66.0;
const STEP: f64 = 46.0;
const BAR: f64 = 15.0;
/// Left end and longest bar of the two panels.
const PANELS: [(f64, f64); 2] = [(120.0, 290.0), (500.0, 270.0)];

const STYLE: &str = "\
text{fill:#24292f}.dim{fill:#57606a}.ours{fill:#1f6feb}.theirs{fill:#a8b1bb}path{stroke:#d0d7de}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#9198a1}.ours{fill:#4493f8}\
.theirs{fill:#656c76}path{stroke:#3d444d}}";

/// A panel: its title, what of a bar it shows, and how that is written.
struct Panel(&'static str, fn(&Bar) -> Option<f64>, fn(f64) -> String);

/// Draws the steps, `names` being the two VMMs.
pub fn draw(steps: &[Step], names: [&str; 2]) -> String {
    let height = TOP + steps.len() as f64 * STEP + 8.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 \
         {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>The talk's five steps: time until userspace and exits, {} and {}</title>\n\
         <style>{STYLE}</style>\n",
        names[0], names[1]
    );
    for (name, class, x) in [(names[0], "ours", 120.0), (names[1], "theirs", 210.0)] {
        let _ = writeln!(
            text,
            "<rect class=\"{class}\" x=\"{x}\" y=\"10\" width=\"12\" height=\"12\" rx=\"2\"/>\
             <text x=\"{}\" y=\"20\">{name}</text>",
            x + 18.0
        );
    }
    let panels = [
        Panel("until userspace, virtual ms", |bar| bar.ms, |ms| format!("{ms:.1}")),
        Panel(
            "exits",
            |bar| (bar.exits > 0).then_some(bar.exits as f64),
            |count| thousands(count as u64),
        ),
    ];
    for ((left, longest), Panel(title, value, label)) in PANELS.into_iter().zip(panels) {
        let bars = steps.iter().flat_map(|step| [value(&step.ours), value(&step.theirs)]);
        let most = bars.flatten().fold(1.0, f64::max);
        let _ = writeln!(
            text,
            "<text class=\"dim\" x=\"{left}\" y=\"50\">{title}</text>\
             <path d=\"M{left} {TOP}V{}\" fill=\"none\"/>",
            height - 8.0
        );
        for (index, step) in steps.iter().enumerate() {
            let y = TOP + index as f64 * STEP + 6.0;
            for (bar, class, y) in
                [(&step.ours, "ours", y), (&step.theirs, "theirs", y + BAR + 2.0)]
            {
                let Some(value) = value(bar) else {
                    let _ = writeln!(
                        text,
                        "<text class=\"dim\" x=\"{}\" y=\"{}\">not counted</text>",
                        left + 6.0,
                        y + 12.0
                    );
                    continue;
                };
                let width = (value / most * longest).max(1.0);
                let _ = writeln!(
                    text,
                    "<rect class=\"{class}\" x=\"{left}\" y=\"{y}\" width=\"{width:.1}\" \
                     height=\"{BAR}\"/><text x=\"{:.1}\" y=\"{}\">{}</text>",
                    left + width + 5.0,
                    y + 12.0,
                    label(value)
                );
            }
        }
    }
    for (index, step) in steps.iter().enumerate() {
        let y = TOP + index as f64 * STEP + 27.0;
        let _ = writeln!(
            text,
            "<text x=\"110\" y=\"{y}\" text-anchor=\"end\" font-weight=\"600\">{}</text>",
            step.name
        );
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let bar = |ms, exits| Bar { ms, exits };
        let steps = [
            Step { name: "a".into(), ours: bar(Some(50.0), 500), theirs: bar(Some(100.0), 1000) },
            Step { name: "b".into(), ours: bar(Some(25.0), 1), theirs: bar(None, 0) },
        ];
        let text = draw(&steps, ["x", "y"]);
        let widths: Vec<&str> = text
            .split("<rect ")
            .skip(3)
            .filter_map(|rect| rect.split("width=\"").nth(1)?.split('"').next())
            .collect();
        assert_eq!(widths, ["145.0", "290.0", "72.5", "135.0", "270.0", "1.0"]);
        assert!(text.contains(">1,000<") && text.contains(">100.0<"), "{text}");
        assert!(text.contains("prefers-color-scheme:dark"));
    }
}
