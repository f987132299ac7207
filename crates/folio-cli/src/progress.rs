//! A progress bar for long work, for a user at a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// Work that is shown from the start, if its size is known.
const LARGE: u64 = 64 << 20;
/// Work that takes longer is shown from then on.
const LONG: Duration = Duration::from_secs(1);

/// How far the work is. Shows nothing until it is long.
#[derive(Debug)]
pub(crate) struct Progress {
    wanted: bool,
    total: Option<u64>,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `wanted` is whether a bar would disturb nobody.
    pub(crate) fn new(wanted: bool, total: Option<u64>) -> Self {
        Self { wanted: wanted && stderr().is_terminal(), total, started: Instant::now(), bar: None }
    }

    /// `done` bytes are done by now.
    pub(crate) fn set(&mut self, done: u64) {
        if !self.wanted {
            return;
        }
        let is_long =
            || self.total.is_some_and(|total| total > LARGE) || self.started.elapsed() > LONG;
        if self.bar.is_none() && is_long() {
            self.bar = Some(self.draw());
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes the bar away, to make room for words.
    pub(crate) fn clear(&mut self) {
        self.wanted = false;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn draw(&self) -> ProgressBar {
        let template = match self.total {
            Some(_) => {
                "{bar:20.cyan} {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left"
            }
            None => "{spinner} {binary_bytes}  {binary_bytes_per_sec}",
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = match self.total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.with_style(style).with_elapsed(self.started.elapsed())
    }
}
