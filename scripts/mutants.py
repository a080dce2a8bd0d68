"""The mutation run; start it as scripts/mutants.sh, which says what it is for."""

import argparse
import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import time

# Where the tests that once caught a mutant are recorded: they are asked first.
RECORD = "docs/mutants.md"
MODELS = ("kernel::models::", "ids::model::")
# In the order in which they are asked: what costs least first.
CHECKERS = ["unit", "shuttle", "loom"]
# How a failure begins that is none of the test's own.
HANGS = "hangs"
CFGS = {"unit": "", "shuttle": "--cfg equipoise_shuttle", "loom": "--cfg equipoise_loom"}


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/mutants.sh")
    parser.add_argument("--bounded", action="store_true", help="what CI has time for")
    parser.add_argument("--all", action="store_true", help="go on after the first that catches, and name them all")
    parser.add_argument("mutant", nargs="*", help="only these")
    return parser.parse_args()


def mutants():
    """The variants of the enum, from its source."""
    with open("src/kernel/sync.rs", encoding="utf-8") as source:
        body = re.search(r"enum Mutant \{(.*?)\n\}", source.read(), re.DOTALL)
    names = re.findall(r"^\s*([A-Z]\w*),", body.group(1), re.MULTILINE) if body else []
    if not names:
        sys.exit("error: found no mutants in src/kernel/sync.rs")
    return names


def known_catchers():
    """By mutant, the tests that the record names."""
    with open(RECORD, encoding="utf-8") as record:
        rows = re.findall(r"^\| `([A-Z]\w*)` \| (.*) \|$", record.read(), re.MULTILINE)
    return {mutant: set(re.findall(r"`([^`]*)`", tests)) for mutant, tests in rows}


def build(checker):
    """The library's test binary, built for `checker` with the seeded bugs in it."""
    environment = dict(
        os.environ,
        RUSTFLAGS=f"--cfg equipoise_no_benches --cfg equipoise_mutants {CFGS[checker]}".strip(),
        CARGO_TARGET_DIR=f"target-mutants/{checker}",
    )
    command = ["cargo", "test", "--locked", "--release", "--lib", "--no-default-features", "--no-run"]
    print(f"building for {checker}", flush=True)
    result = subprocess.run(
        [*command, "--message-format=json-render-diagnostics"], env=environment, stdout=subprocess.PIPE, text=True
    )
    if result.returncode != 0:
        sys.exit(f"error: the build for {checker} failed")
    for line in result.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            return message["executable"]
    sys.exit(f"error: the build for {checker} made no test binary")


def tests_of(checker, binary):
    listing = subprocess.run([binary, "--list", "--format=terse"], stdout=subprocess.PIPE, text=True, check=True).stdout
    names = [line.removesuffix(": test") for line in listing.splitlines() if line.endswith(": test")]
    names = [name for name in names if name.startswith(MODELS)]
    if not names:
        sys.exit(f"error: the binary for {checker} holds no model")
    return names


def run(binary, test, mutant, settings, timeout):
    """None when the test passed, else how it failed."""
    environment = dict(os.environ, RUST_BACKTRACE="0", **settings)
    environment.pop("EQUIPOISE_MUTANT", None)
    if mutant:
        environment["EQUIPOISE_MUTANT"] = mutant
    try:
        ended = subprocess.run(
            [binary, "--exact", test, "--test-threads=1"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return f"{HANGS} ({timeout:.0f} s)"
    if ended.returncode == 0:
        # Never taken for a pass: a filter that matches nothing.
        return None if "1 passed" in ended.stdout else "the test did not run"
    if ended.returncode < 0:
        return signal.Signals(-ended.returncode).name
    panic = re.search(r"panicked at [^\n]*\n([^\n]*)", ended.stdout)
    return panic.group(1).strip()[:90] if panic else f"exit code {ended.returncode}"


def short(name):
    """A test's name as the record has it."""
    return name.removeprefix("kernel::models::")


class Suite:
    """All tests of all checkers, with how long each takes when nothing is wrong."""

    def __init__(self):
        self.known = known_catchers()
        self.tests = []
        for checker in CHECKERS:
            binary = build(checker)
            self.tests += [(checker, binary, name) for name in tests_of(checker, binary)]

    def baseline(self, pool, iterations):
        """Everything passes without a mutant, as in scripts/models.sh --bounded; keeps the seconds each took."""

        def measure(entry):
            _, binary, name = entry
            started = time.monotonic()
            failure = run(binary, name, None, iterations, 1800)
            seconds = time.monotonic() - started
            print(f"{short(name)}: {failure or 'ok'} ({seconds:.1f} s)", flush=True)
            return name, failure, seconds

        measured = list(pool.map(measure, self.tests))
        failed = [name for name, failure, _ in measured if failure]
        if failed:
            sys.exit(f"error: without a mutant fail: {', '.join(failed)}")
        self.seconds = {name: seconds for name, _, seconds in measured}
        # Quick ones first, within a checker.
        self.tests.sort(key=lambda entry: (CHECKERS.index(entry[0]), self.seconds[entry[2]]))
        print(f"{len(self.tests)} tests pass without a mutant, {sum(self.seconds.values()):.0f} s", flush=True)

    def hunt(self, mutant, iterations, patience, everything=False):
        """The first test that fails with the mutant, or every one, each with how it failed."""
        known = self.known.get(mutant, set())
        caught = []
        for _, binary, name in sorted(self.tests, key=lambda entry: short(entry[2]) not in known):
            failure = run(binary, name, mutant, iterations, patience(self.seconds[name]))
            if failure:
                caught.append((short(name), failure))
                # What hangs may also be a machine that stood still: others are asked, too.
                if not everything and not failure.startswith(HANGS):
                    break
        return caught


def schedules(count):
    """The setting that has shuttle try so many."""
    return {"EQUIPOISE_SHUTTLE_ITERATIONS": str(count)}


def main():
    arguments = parse_arguments()
    names = mutants()
    unknown = set(arguments.mutant) - set(names)
    if unknown:
        sys.exit(f"error: no mutant is called {', '.join(sorted(unknown))}")
    names = arguments.mutant or names

    # Schedules of shuttle: of the models without a mutant (scripts/models.sh goes deeper), with each, and once more with each that was missed.
    all_well = 20_000
    few, many = (2_000, 200_000) if arguments.bounded else (20_000, 1_000_000)
    suite = Suite()
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        suite.baseline(pool, schedules(all_well))

        def catch(mutant):
            # Ample also for loom and the unit tests, which take as long as they did.
            caught = suite.hunt(mutant, schedules(few), lambda seconds: 30 + 5 * seconds, arguments.all)
            if not caught:
                # Random schedules may miss.
                caught = suite.hunt(mutant, schedules(many), lambda seconds: 60 + 10 * seconds * max(1, many / all_well))
            verdict = "; ".join(f"{test}: {failure}" for test, failure in caught) or "NOT CAUGHT"
            print(f"[{time.monotonic() - started:4.0f} s] {mutant}: {verdict}", flush=True)
            return mutant, caught

        results = list(pool.map(catch, names))

    print("\n| seeded bug | caught by | which says |\n|---|---|---|")
    for mutant, caught in results:
        tests = ", ".join(f"`{test}`" for test, _ in caught) or "**nothing**"
        says = caught[0][1].replace("|", "/") if caught else ""
        print(f"| `{mutant}` | {tests} | {says} |")
    missed = [mutant for mutant, caught in results if not caught]
    print(f"\n{len(results) - len(missed)} mutants caught, {len(missed)} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
