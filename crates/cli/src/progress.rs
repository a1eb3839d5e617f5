//! The bar that a build draws, where somebody watches.

use envfs_solver::BuildProgress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Draws on standard error, if that is a terminal.
pub(crate) struct Bar {
    fetched: ProgressBar,
}

impl Bar {
    pub(crate) fn new(is_hidden: bool) -> Self {
        let target = if is_hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self {
            fetched: ProgressBar::with_draw_target(Some(0), target),
        }
    }

    /// Shows that something goes on that cannot be measured.
    pub(crate) fn waiting(is_hidden: bool, what: &'static str) -> ProgressBar {
        let target = if is_hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(None, target).with_message(what);
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        bar
    }
}

impl BuildProgress for Bar {
    fn missing(&self, packages: usize, bytes: u64) {
        if packages > 0 {
            let style =
                ProgressStyle::with_template("{msg:>24!} [{wide_bar}] {bytes} of {total_bytes}  {bytes_per_sec}");
            self.fetched
                .set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
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
        self.fetched.set_message(format!("building {source}"));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.fetched.finish_and_clear();
    }
}
