#!/usr/bin/env bash
# Builds the peer to the path given. Needs Go and Python 3 with venv; the contract is compiled with protoc from PyPI.
set -euo pipefail
out=$(realpath -m "$1")
cd "$(dirname "$0")"
root=$(realpath ../../..)
tools=$root/.cache/go-peer
mkdir -p "$tools" gen
if [ ! -x "$tools/python/bin/python" ]; then
    python3 -m venv "$tools/python"
    "$tools/python/bin/pip" install --quiet --requirement "$root/tests/python/requirements.txt"
fi
GOBIN=$tools go install google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
"$tools/python/bin/python" -m grpc_tools.protoc -I"$root/proto" \
    --plugin="$tools/protoc-gen-go" --plugin="$tools/protoc-gen-go-grpc" \
    --go_out=gen --go_opt=paths=source_relative,Mequipoise/v1/accounts.proto=equipoise/peer/gen \
    --go-grpc_out=gen --go-grpc_opt=paths=source_relative,Mequipoise/v1/accounts.proto=equipoise/peer/gen \
    equipoise/v1/accounts.proto
mv gen/equipoise/v1/*.go gen/
rm -r gen/equipoise
go build -o "$out" .
