//! The `equipoise` binary: everything it does is in [`equipoise::cli`].

use std::process::ExitCode;

/// A transaction is a handful of small, short-lived objects; glibc takes twice the time for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    equipoise::cli::run(std::env::args_os())
}
