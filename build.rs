//! Compiles the gRPC contract and the inventory event with protox, so that nobody needs a `protoc`.

#[cfg(feature = "server")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::path::PathBuf;

    const CONTRACT: &str = "equipoise/v1/accounts.proto";
    const EVENTS: &str = "equipoise/v1/events.proto";

    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_file(CONTRACT)?;
    // For reflection.
    std::fs::write(out.join("accounts.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    // Our own service reads and writes batches in its own way.
    let server_side = out.join("server_side");
    std::fs::create_dir_all(&server_side)?;
    tonic_prost_build::configure()
        .out_dir(server_side)
        .build_client(false)
        .codec_path("crate::grpc::codec::Codec")
        .extern_path(".equipoise.v1", "crate::grpc::proto")
        .extern_path(".equipoise.v1.ExecuteBatchRequest", "crate::grpc::operations::Operations")
        .extern_path(".equipoise.v1.ExecuteBatchResponse", "crate::grpc::results::Results")
        .compile_fds(compiler.file_descriptor_set())?;
    // Of the same package, and no part of the contract: the file of that name is taken.
    let events = out.join("events");
    std::fs::create_dir_all(&events)?;
    tonic_prost_build::configure().out_dir(events).compile_fds(protox::compile([EVENTS], ["proto"])?)?;
    Ok(())
}

#[cfg(not(feature = "server"))]
fn main() {}
