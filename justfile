# The commands that people use; each is a plain script or cargo call, and CI makes the same ones.

[private]
default:
    @just --list

# Run the service
serve *arguments:
    cargo run --release -- serve {{ arguments }}

# Every test
test:
    scripts/test.sh

# What a commit needs at least: format, lints, documentation
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --all-targets --no-default-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
    scripts/check-engine-alone.sh

# All that CI does
ci:
    .ci/run

# Model-check the kernel; `just models` goes deep, `just models --bounded` takes minutes
models *arguments:
    scripts/models.sh {{ arguments }}

# Seed every known bug and see it caught
mutants *arguments:
    scripts/mutants.sh {{ arguments }}

# Stress under ThreadSanitizer, AddressSanitizer and LeakSanitizer
sanitize *arguments:
    scripts/sanitize.sh {{ arguments }}

# Fuzz both targets
fuzz seconds="30":
    scripts/fuzz.sh {{ seconds }}

# All of these, deep, for a night
soak:
    scripts/soak.sh

# The speed ratios that README names
bench:
    cargo bench --bench ratios
    cargo bench --bench grpc
    cargo bench --bench durable
    cargo run --release --no-default-features --example memory

# Licences, sources and advisories (needs cargo-deny)
deny:
    cargo deny check
