//! The library that stands between the process and its disk and clock (shim.c).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::service::run;

/// Compiled once a run.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/shim.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shim-{}.so", std::process::id()));
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
        let (code, said) = run(&mut compile);
        assert_eq!(code, Some(0), "{said}");
        library
    })
}

/// A service's command with the shim in front of the files in `dir`.
pub fn shimmed(mut command: Command, dir: &Path, settings: &[(&str, &str)]) -> Command {
    let dir = fs::canonicalize(dir).unwrap();
    command.env("LD_PRELOAD", library()).env("EQUIPOISE_SHIM_DIR", dir);
    for (name, value) in settings {
        command.env(format!("EQUIPOISE_SHIM_{name}"), value);
    }
    command
}
