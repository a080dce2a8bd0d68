//! `equipoise bench`: measuring, and what becomes of the figures.

use clap::{Args, Subcommand};

use super::exit::Failure;

mod run;
mod table;

/// Measure the service, or the engine alone, under canonical workloads
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Example:
  equipoise bench run open --rate 500 --duration 60s
  equipoise bench run all --json >> runs.jsonl"
)]
pub(super) struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
}

impl Bench {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Run(run) => run.run(),
        }
    }

    pub(super) fn json(&self) -> bool {
        match &self.command {
            Command::Run(run) => run.json,
        }
    }
}
