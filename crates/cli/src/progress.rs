//! The bar that a build draws, where somebody watches.

use std::time::Duration;

use envfs_solver::BuildProgress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What can be measured, and what cannot.
const MEASURED: &str = "{msg:>24!} [{wide_bar}] {bytes} of {total_bytes}  {bytes_per_sec}";
const UNMEASURED: &str = "{spinner} {wide_msg}";

/// How often a terminal is told that something goes on.
const TICK: Duration = Duration::from_millis(120);

/// Draws on standard error, if that is a terminal, from when there is something to show.
pub(crate) struct Bar {
    fetched: ProgressBar,
    is_hidden: bool,
}

impl Bar {
    pub(crate) fn new(is_hidden: bool) -> Self {
        Self {
            fetched: ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden()),
            is_hidden,
        }
    }

    /// Shows that something goes on that cannot be measured.
    pub(crate) fn waiting(is_hidden: bool, what: &'static str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_message(what);
        show(&bar, UNMEASURED, is_hidden);
        bar.enable_steady_tick(TICK);
        bar
    }
}

fn show(bar: &ProgressBar, template: &str, is_hidden: bool) {
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    if !is_hidden {
        bar.set_draw_target(ProgressDrawTarget::stderr());
    }
}

impl BuildProgress for Bar {
    fn missing(&self, packages: usize, bytes: u64) {
        if packages > 0 {
            show(&self.fetched, MEASURED, self.is_hidden);
            self.fetched.set_length(bytes);
            self.fetched.set_message(format!("{packages} packages"));
        }
    }

    fn fetched(&self, bytes: i64) {
        let position = self.fetched.position().saturating_add_signed(bytes);
        self.fetched.set_position(position);
    }

    fn ingested(&self, package: &str) {
        self.fetched.set_message(package.to_owned());
    }

    fn building(&self, source: &str) {
        if self.fetched.length() == Some(0) {
            show(&self.fetched, UNMEASURED, self.is_hidden);
        }
        self.fetched.set_message(format!("building {source}"));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.fetched.finish_and_clear();
    }
}
