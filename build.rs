//! Compiles the gRPC contract and the inventory event with protox, so that nobody needs a `protoc`; notes which build it is, for
//! what the bench command measures; and names what the model checkers leave out.

#[cfg(feature = "grpc")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::path::PathBuf;

    const CONTRACT: &str = "equipoise/v1/accounts.proto";
    const EVENTS: &str = "equipoise/v1/events.proto";

    name_what_is_checked();
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
    #[cfg(feature = "server")]
    name_the_build();
    Ok(())
}

/// The compiler, the profile, and the commit where there is one. Debug builds do without the commit: whoever measures does not
/// measure them, and each commit would compile everything again.
#[cfg(feature = "server")]
fn name_the_build() {
    let set = |name: &str| std::env::var(name).unwrap_or_default();
    let (rustc, profile, root) = (set("RUSTC"), set("PROFILE"), set("CARGO_MANIFEST_DIR"));
    // Cargo also sets them for what it runs, where EQUIPOISE_... would be taken for settings.
    println!("cargo::rustc-env=BUILD_RUSTC={}", output(&rustc, &["--version"]).unwrap_or("unknown".into()));
    println!("cargo::rustc-env=BUILD_PROFILE={profile}");
    // Unpacked from an archive inside another project's repository, that one's commit would say nothing.
    let ours = || output("git", &["-C", &root, "rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix.is_empty());
    if profile != "release" || !ours() {
        return;
    }
    let commit = output("git", &["-C", &root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
    let Some(commit) = commit.filter(|commit| !commit.is_empty()) else { return };
    println!("cargo::rustc-env=BUILD_COMMIT={commit}");
    // The sources, because they are what makes a commit dirty.
    println!("cargo::rerun-if-changed=src\ncargo::rerun-if-changed=Cargo.lock");
    if let Some(log) = output("git", &["-C", &root, "rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// The first line that a program prints, if it can be run and ends well.
#[cfg(feature = "server")]
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(arguments).output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
    Some(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(not(feature = "grpc"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    name_what_is_checked();
}

/// Cfgs for what the model checkers leave out: loom runs the kernel alone, shuttle the ids too, and neither the rest of the engine.
fn name_what_is_checked() {
    let set = |name: &str| std::env::var_os(name).is_some();
    let (loom, shuttle) = (set("CARGO_CFG_EQUIPOISE_LOOM"), set("CARGO_CFG_EQUIPOISE_SHUTTLE"));
    if !loom {
        println!("cargo::rustc-cfg=equipoise_ids");
    }
    if !loom && !shuttle {
        println!("cargo::rustc-cfg=equipoise_engine");
    }
}
