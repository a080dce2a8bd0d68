//! Pages for people: runs in detail, and the history over time.
//!
//! A page is one file, which loads nothing and runs nothing; its policy forbids both to the browser. Names and URLs are
//! input from outside, so `maud` escapes everything, and no text bypasses it.

mod axis;
mod chart;
mod format;
mod history;
mod latency;
mod page;
mod run;
mod trend;

#[cfg(test)]
mod tests;

pub use history::page as history_page;
pub use run::page;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Of the library that draws.
    #[error("a chart cannot be drawn: {0}")]
    Chart(String),
}
