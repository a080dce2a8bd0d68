"""Sums the samples of `perf script` by layer and thread; started by scripts/profile.sh."""

import collections
import json
import re
import sys

# Layers in the order of an operation's way, each with the names that its functions' paths begin with.
LAYERS = [
    ("HTTP/2 and gRPC", "h2 hyper hyper_util http http_body http_body_util tonic tower tower_service bytes"),
    ("reading requests, writing results", "prost equipoise::grpc::operations equipoise::grpc::results equipoise::grpc::codec equipoise::grpc::proto"),
    ("calls: deadlines, limits, log", "equipoise::grpc tracing"),
    ("tokio", "tokio mio"),
    ("plan, look-up of accounts", "equipoise::plan equipoise::directory equipoise::kernel::hints flurry seize equipoise::request equipoise::account"),
    ("ids: claim", "equipoise::submission equipoise::ids::table equipoise::ids::probe equipoise::kernel::claims"),
    ("ids: index on disk", "equipoise::ids"),
    ("drive and commit", "equipoise::kernel equipoise::ledger equipoise::core equipoise::wait equipoise::outcome"),
    ("reclamation", "equipoise::kernel::garbage equipoise::kernel::reuse crossbeam_epoch"),
    ("journal", "equipoise::journal blake3 _blake3 crc32c"),
    ("allocation", "mi_ _mi_"),
]
PREFIXES = sorted(
    ((prefix, layer) for layer, prefixes in LAYERS for prefix in prefixes.split()),
    key=lambda entry: -len(entry[0]),
)
# What a thread was in the system for.
CALLS = {
    "writev": "system: sockets", "sendto": "system: sockets", "recvfrom": "system: sockets", "epoll_wait": "system: sockets",
    "fdatasync": "system: disk", "pwrite64": "system: disk", "fsync": "system: disk", "preadv2": "system: disk",
    "pread64": "system: disk", "futex": "system: sleeping, waking", "sched_yield": "system: sleeping, waking",
}
THREADS = {"tokio-rt-worker": "workers", "equipoise-flush": "flusher"}


def layer_of(frames):
    """The layer of a sample, whose innermost frame comes first: (symbol, file) each."""
    symbol, file = frames[0]
    if "kernel" in file:
        return system_layer([name for name, _ in frames])
    if "libc" in file:
        return "copies, comparisons" if "mem" in symbol else "other"
    path = re.sub(r"^[<&\[( ]*(?:dyn |mut )?", "", symbol)
    for prefix, layer in PREFIXES:
        if path.startswith(prefix):
            return layer
    return "other"


def system_layer(names):
    for name in names:
        called = re.match(r"__x64_sys_(\w+)", name)
        if called:
            return CALLS.get(called.group(1), "system: other")
    text = " ".join(names)
    if "sock_write_iter" in text or "tcp_" in text:
        return "system: sockets"
    if "asm_" in text:
        return "system: interrupts, page faults"
    return "system: sleeping, waking" if "schedule" in text else "system: other"


def samples(lines):
    """(thread, frames) of each sample."""
    thread, frames = None, []
    for line in lines:
        if not line.strip():
            if thread and frames:
                yield thread, frames
            thread, frames = None, []
        elif not line[0].isspace():
            thread = line.strip()
        else:
            frame = re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)$", line)
            if frame:
                frames.append(frame.groups())
    if thread and frames:
        yield thread, frames


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        run = json.load(file)
    whole = 1e6 * run["usage"]["cpu_seconds"] / run["operations"]
    counts = collections.defaultdict(collections.Counter)
    for thread, frames in samples(sys.stdin):
        counts[layer_of(frames)][THREADS.get(thread, "others")] += 1
    total = sum(sum(threads.values()) for threads in counts.values())
    if not total:
        sys.exit("error: no samples: does perf work here?")
    columns = ["workers", "flusher", "others"]
    print(f"{run['rate'] / 1e3:.0f} k operations/s, {whole:.2f} us of the service's processor time each, {total} samples")
    print(f"{'':36}" + "".join(f"{name:>9}" for name in columns) + f"{'us':>9}{'%':>7}")
    order = [layer for layer, _ in LAYERS]
    place = lambda layer: (order.index(layer) if layer in order else len(order), layer)
    sums = collections.Counter()
    for layer in sorted(counts, key=place):
        sums.update(counts[layer])
        print(row(layer, counts[layer], columns, whole, total))
    print(row("all", sums, columns, whole, total))


def row(name, threads, columns, whole, total):
    cells = "".join(f"{whole * threads[column] / total:9.2f}" for column in columns)
    count = sum(threads.values())
    return f"{name:36}{cells}{whole * count / total:9.2f}{100 * count / total:7.1f}"


if __name__ == "__main__":
    main()
