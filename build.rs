//! Compiles the gRPC contract with protox, so that nobody needs a `protoc`.

#[cfg(feature = "server")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::path::PathBuf;

    const CONTRACT: &str = "equipoise/v1/accounts.proto";

    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_file(CONTRACT)?;
    // For reflection.
    let descriptors = PathBuf::from(std::env::var("OUT_DIR")?).join("accounts.bin");
    std::fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

#[cfg(not(feature = "server"))]
fn main() {}
