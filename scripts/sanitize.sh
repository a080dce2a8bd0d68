#!/usr/bin/env bash
# Stress tests in release under ThreadSanitizer, then under AddressSanitizer with LeakSanitizer. TSan knows no fences:
# crossbeam-epoch gives it equivalent accesses, so nothing of the kernel is suppressed; scripts/tsan.supp has the rest.
#   scripts/sanitize.sh [thread|address ...]    (default: both)
# Wants a nightly toolchain; builds the standard library with the sanitizer where its source can be had.
source "$(dirname "$0")/common.sh"

rustup toolchain list | grep -q '^nightly' || fail "needs a nightly toolchain: rustup toolchain install nightly"
build_std=()
source_of_std="$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock"
if [ -e "$source_of_std" ] || timeout 180 rustup component add rust-src --toolchain nightly; then
    build_std=(-Zbuild-std)
fi

[ $# -gt 0 ] || set -- thread address
for sanitizer in "$@"; do
    flags="--cfg equipoise_no_benches -Zsanitizer=$sanitizer"
    std=("${build_std[@]}")
    # A4's stopwatch over a thousand threads measures nothing here but the sanitizer.
    skipped=(--skip a_thousand_read)
    case $sanitizer in
        thread)
            cp scripts/tsan.supp "$cache/tsan.supp"
            if [ ${#build_std[@]} -eq 0 ]; then
                echo "the standard library's source is not to be had: it stays uninstrumented, scripts/tsan-std.supp applies"
                flags+=" -Cunsafe-allow-abi-mismatch=sanitizer"
                cat scripts/tsan-std.supp >>"$cache/tsan.supp"
            fi
            # One thread that harms files byte by byte races with nobody; AddressSanitizer runs these.
            skipped+=(--skip trials::damage --skip trials::notes --skip index::tests::damage)
            export TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1 suppressions=$cache/tsan.supp"
            ;;
        address)
            # Memory that a thread keeps for itself would hide a use after free.
            flags+=" --cfg equipoise_no_reuse"
            # The standard library as it ships will do: ASan intercepts the allocator.
            std=()
            export ASAN_OPTIONS="detect_leaks=1 detect_stack_use_after_return=1"
            ;;
        *) fail "unknown sanitizer: $sanitizer" ;;
    esac
    say "${sanitizer}Sanitizer: the engine's stress tests, release"
    RUSTFLAGS=$flags CARGO_TARGET_DIR="target-sanitize-$sanitizer" tested timeout 1500 cargo +nightly test --locked \
        "${std[@]}" --release --no-default-features --target "$host" \
        --lib --test ledgers --test load --test history -- "${skipped[@]}"
done
echo "$total_passed tests passed under sanitizers"
