//! `equipoise bench`: measures, keeps the figures, and draws them.

mod history;
mod run;
mod table;

use clap::{Args, Subcommand};

use self::history::{Collect, Export, Report};
use super::exit::Failure;

/// Measure the service, or the engine alone, under canonical workloads; keep the figures, and draw them
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Example:
  equipoise bench run open --rate 500 --duration 60s
  equipoise bench run all --html page.html
  equipoise bench collect --criterion target/criterion
  equipoise bench report --out history.html"
)]
pub(super) struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Collect(Collect),
    Report(Report),
    Export(Export),
}

impl Bench {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Run(run) => run.run(),
            Command::Collect(collect) => collect.run(),
            Command::Report(report) => report.run(),
            Command::Export(export) => export.run(),
        }
    }

    pub(super) fn json(&self) -> bool {
        match &self.command {
            Command::Run(run) => run.json,
            Command::Collect(collect) => collect.json,
            Command::Report(_) | Command::Export(_) => false,
        }
    }
}
