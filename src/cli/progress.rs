//! How far a long command is, on stderr and only on a terminal.

use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Progress;

/// A bar; clones are the same one.
#[derive(Clone)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Over bytes that are read. `hidden` even on a terminal.
    pub(super) fn of_bytes(hidden: bool) -> Self {
        Self::new(hidden, "{bar:40} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")
    }

    /// Over accounts.
    pub(super) fn of_accounts(hidden: bool) -> Self {
        Self::new(hidden, "{bar:40} {human_pos}/{human_len} accounts  {per_sec}  {eta} left")
    }

    /// Over records of a topic.
    #[cfg(feature = "kafka")]
    pub(super) fn of_records(hidden: bool) -> Self {
        Self::new(hidden, "{bar:40} {human_pos}/{human_len} records  {per_sec}  {eta} left")
    }

    /// Over the stages of a run, each named by [`Bar::name`].
    pub(super) fn of_stages(hidden: bool) -> Self {
        Self::new(hidden, "{msg:32} {bar:40} {percent:>3} %  {eta} left")
    }

    fn new(hidden: bool, template: &str) -> Self {
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        Bar(match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }

    pub(super) fn show(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// Says what is under way.
    pub(super) fn name(&self, stage: String) {
        self.0.set_message(stage);
    }

    /// What the engine wants to know of: how far it is, and whether to go on.
    pub(super) fn follow(&self, progress: Progress) -> ControlFlow<()> {
        self.show(progress.bytes, progress.total_bytes);
        ControlFlow::Continue(())
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
