#!/usr/bin/env bash
# The service on disk against what one would write with a lock, in Go, with group commit, in one run. Needs Go and Python 3 with venv.
source "$(dirname "$0")/common.sh"

say "building the Go service"
benches/peers/go/build.sh "$cache/go-peer/service"
say "durable transfers: ours and Go's, in turn"
GRPC_GO=$cache/go-peer/service cargo bench --locked --bench grpc -- go
