//! `equipoise bench`: measures, and shows what was measured.

use clap::{Args, Subcommand};

use super::bench_report::{Collect, Export, Report};
use super::exit::Failure;

/// Keep the figures of benchmarks, and draw them
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise bench collect --criterion target/criterion
  equipoise bench report --out page.html")]
pub(super) struct Bench {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Collect(Collect),
    Report(Report),
    Export(Export),
}

impl Bench {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match &self.command {
            BenchCommand::Collect(collect) => collect.run(),
            BenchCommand::Report(report) => report.run(),
            BenchCommand::Export(export) => export.run(),
        }
    }

    pub(super) fn json(&self) -> bool {
        match &self.command {
            BenchCommand::Collect(collect) => collect.json,
            BenchCommand::Report(_) | BenchCommand::Export(_) => false,
        }
    }
}
