//! Progress of long work: a bar on a terminal, plain lines elsewhere (CI).

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// One piece of work being done. Say how it went with [`Step::done`].
pub struct Step {
    what: String,
    since: Instant,
    bar: Option<ProgressBar>,
    total: u64,
    at: u64,
    said: u64,
}

impl Step {
    /// Work of unknown length.
    pub fn start(what: &str) -> Self {
        Self::counted(what, 0)
    }

    /// Work of about `total` units (0: unknown).
    pub fn counted(what: &str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let (bar, form) = if total == 0 {
                (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}")
            } else {
                (ProgressBar::new(total), "{msg} [{bar:30}] {percent}% {elapsed}, {eta} left")
            };
            if let Ok(style) = ProgressStyle::with_template(form) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar.set_message(what.to_owned());
            bar
        });
        if bar.is_none() {
            eprintln!("{what} ...");
        }
        Self { what: what.to_owned(), since: Instant::now(), bar, total, at: 0, said: 0 }
    }

    /// One more unit is done. Without a terminal every tenth of the work gets a line.
    pub fn tick(&mut self) {
        self.at += 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
        } else if let Some(tenth) = (self.at * 10).checked_div(self.total)
            && tenth > self.said
            && tenth < 10
        {
            self.said = tenth;
            eprintln!("{} ... {}0 %, {} s", self.what, tenth, self.since.elapsed().as_secs());
        }
    }

    /// The work is done: leaves one line with the time it took.
    pub fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{}: done in {:.1} s", self.what, self.since.elapsed().as_secs_f32());
    }
}
