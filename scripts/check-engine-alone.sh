#!/usr/bin/env bash
# The engine without its service pulls no runtime and no gRPC: `--no-default-features` must stay free of them.
source "$(dirname "$0")/common.sh"

say "dependencies of the engine alone"
tree=$(cargo tree --locked --no-default-features --edges normal,build --prefix none --format '{p}' | sort -u)
echo "$tree"
grep -q '^equipoise ' <<<"$tree" || fail "cargo tree did not list the package"
if grep -E '^(tokio|tonic|prost|hyper|tower|axum|h2|clap|serde)[a-z_-]* v' <<<"$tree"; then
    fail "the engine alone must not depend on these"
fi
# The check itself is checked: the service does depend on them.
cargo tree --locked --edges normal --prefix none --format '{p}' | grep -Eq '^tonic v' || fail "this check looks for the wrong names"
