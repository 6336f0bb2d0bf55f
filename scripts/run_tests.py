#!/usr/bin/env python3
"""Runs the tests and counts them (all steps unless told); the last line is "N passed, N failed".

  lint     ruff, mypy, layer rules, clang-format
  ctest    the release build's C++ tests
  python   unit tests of the connector
  e2e      a real vLLM on a real data plane
  asan     module tests of what reads hostile bytes and lends buffers, under AddressSanitizer and UBSan
  tsan     module tests of what has threads, under ThreadSanitizer
  aarch64  cross-build up to the pipeline; tests of formats, codecs and kernels under qemu
  fuzz     every fuzzer, for some seconds each

Builds run one after another, beside the tests of what is built already, on whatever processor time these
leave: an engine of `e2e` fills one core, and its data plane seldom the other. Details lie in out/test/<step>*.log. Exit status 0 only if nothing failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out" / "test"
BIN = Path(sys.executable).parent

# Those whose tests take longest come first.
# gRPC is not built for sanitizers: `rpc`, `server`, `app` and `cli` are tested in the release build only.
ASAN_MODULES = ("store", "pipeline", "quant", "codec", "format", "mem", "client")
TSAN_MODULES = ("pipeline", "client", "flow")
# What runs on any core alike. The pipeline's tests have clocks, which qemu makes slow: built only.
AARCH64_MODULES = ("format", "codec", "quant")


@dataclass
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    problems: list[str] = field(default_factory=list)

    def record(self, name: str, good: bool) -> None:
        if good:
            self.passed += 1
        else:
            self.failed += 1
            self.problems.append(name)


def run(log: Path, command: list[str], environment: dict[str, str] | None = None, timeout_s: float = 3600) -> int:
    """Appends the output to `log`; the exit status, 124 when it took too long."""
    with open(log, "ab") as output:
        output.write(f"\n$ {' '.join(command)}\n".encode())
        output.flush()
        try:
            return subprocess.run(
                command, cwd=ROOT, stdout=output, stderr=output, env=os.environ | (environment or {}), timeout=timeout_s
            ).returncode
        except subprocess.TimeoutExpired:
            output.write(f"\nended after {timeout_s} s\n".encode())
            return 124


def read_junit(file: Path, counts: Counts, fallback: str) -> None:
    """Adds the cases of a JUnit file; a missing one counts as one failure."""
    if not file.exists():
        counts.record(f"{fallback}: no results", False)
        return
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        name = f"{case.get('classname', '')}.{case.get('name', '')}"
        # GoogleTest and ctest mark what did not run in an attribute, pytest with an element.
        if case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            counts.skipped += 1
        else:
            problem = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
            bad = problem is not None or case.get("status") == "fail"
            if bad:
                name += f": {first_line(problem)} {reason(case.findtext('system-out') or '')}"
            counts.record(name, not bad)


def first_line(problem: ElementTree.Element | None) -> str:
    """What a failed case says of itself; all of it is in the log."""
    message = "" if problem is None else problem.get("message") or problem.text or ""
    return " ".join(message.split())[:300]


def reason(output: str) -> str:
    """What a program said before it ended too early."""
    lines = [
        line
        for line in output.splitlines()
        if re.search(r"check failed|SUMMARY: |ERROR: |: unavailable: |: Failure$", line)
    ]
    return " | ".join(lines)[:500]


def lint(counts: Counts, log: Path, _: argparse.Namespace) -> None:
    sources = subprocess.run(
        ["git", "ls-files", "*.cc", "*.h"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    sources = [source for source in sources if (ROOT / source).exists()]
    checks = {
        "ruff check": [str(BIN / "ruff"), "check", "."],
        "ruff format": [str(BIN / "ruff"), "format", "--check", "."],
        "mypy": [str(BIN / "mypy")],
        "layers": [sys.executable, "tools/check_layers.py"],
        "clang-format": ["clang-format-14", "--dry-run", "-Werror", *sources],
    }
    for name, command in checks.items():
        counts.record(name, run(log, command) == 0)


def ctest(counts: Counts, log: Path, arguments: argparse.Namespace) -> None:
    """The modules' tests by program, for a process for each costs more than most of them; beside them, by
    ctest, what starts processes of its own."""
    results = OUT / "ctest.xml"
    results.unlink(missing_ok=True)
    command = ["ctest", "--test-dir", "build/release", "-LE", "unit", "--output-on-failure"]
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(run, log, [*command, "--output-junit", str(results)])
        tested = {folder.name for folder in (ROOT / "src").iterdir()} - set(ASAN_MODULES)
        module_tests("release", (*ASAN_MODULES, *sorted(tested)))(counts, log, arguments)
        rest.result()
    read_junit(results, counts, "ctest")


def test_programs(modules: tuple[str, ...]) -> list[str]:
    return [f"{module}_test" for module in modules if any((ROOT / "src" / module).glob("*_test.cc"))]


def module_tests(
    preset: str, modules: tuple[str, ...], environment: dict[str, str] | None = None, runner: tuple[str, ...] = ()
) -> Callable[..., None]:
    """A step: runs the modules' tests as built with `preset`."""

    def step(counts: Counts, _: Path, __: argparse.Namespace) -> None:
        for old in [*OUT.glob(f"{preset}-*.log"), *OUT.glob(f"{preset}-*.xml")]:
            old.unlink()
        # Thirds of programs, three at a time: the longest ones mostly wait for servers and time-outs.
        thirds = [(program, third) for program in test_programs(modules) for third in range(3)]

        def start(part: tuple[str, int]) -> int:
            program, third = part
            name = f"{preset}-{program}-{third}"
            command = [*runner, f"build/{preset}/bin/{program}", f"--gtest_output=xml:{OUT / name}.xml"]
            shard = {"GTEST_TOTAL_SHARDS": "3", "GTEST_SHARD_INDEX": str(third)}
            return run(OUT / f"{name}.log", command, (environment or {}) | shard, timeout_s=600)

        with ThreadPoolExecutor(3) as pool:
            statuses = list(pool.map(start, thirds))
        for (program, third), status in zip(thirds, statuses, strict=True):
            failed_before = counts.failed
            read_junit(OUT / f"{preset}-{program}-{third}.xml", counts, f"{preset} {program}")
            if status != 0:
                why = reason((OUT / f"{preset}-{program}-{third}.log").read_text(errors="replace"))
                if counts.failed == failed_before:
                    counts.record(f"{preset} {program}: exit status {status}", False)
                counts.problems[-1] += f" (exit status {status}) {why}"

    return step


def fuzzers() -> list[str]:
    return sorted(file.stem for file in (ROOT / "src").glob("*/*_fuzz.cc"))


def fuzz(counts: Counts, _: Path, arguments: argparse.Namespace) -> None:
    def start(program: str) -> int:
        corpus = ROOT / "build" / "fuzz" / "corpus" / program
        corpus.mkdir(parents=True, exist_ok=True)
        command = [f"build/fuzz/bin/{program}", str(corpus), f"-max_total_time={arguments.fuzz_seconds}"]
        command += ["-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={OUT}/{program}-"]
        log = OUT / f"fuzz-{program}.log"
        log.unlink(missing_ok=True)
        return run(log, command, timeout_s=arguments.fuzz_seconds + 120)

    with ThreadPoolExecutor(2) as pool:
        statuses = list(pool.map(start, fuzzers()))
    for program, status in zip(fuzzers(), statuses, strict=True):
        counts.record(program, status == 0)


def pytest(folder: str) -> Callable[..., None]:
    def step(counts: Counts, log: Path, _: argparse.Namespace) -> None:
        results = OUT / f"{log.stem}.xml"
        results.unlink(missing_ok=True)
        status = run(log, [sys.executable, "-m", "pytest", folder, f"--junitxml={results}"])
        failed_before = counts.failed
        read_junit(results, counts, folder)
        if status not in (0, 1) and counts.failed == failed_before:
            counts.record(f"pytest {folder}: exit status {status}", False)

    return step


STEPS: dict[str, Callable[..., None]] = {
    "lint": lint,
    "ctest": ctest,
    "python": pytest("python/tests"),
    "e2e": pytest("tests/e2e"),
    "asan": module_tests(
        "asan", ASAN_MODULES, {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    ),
    "tsan": module_tests(
        "tsan", TSAN_MODULES, {"TSAN_OPTIONS": f"halt_on_error=1 suppressions={ROOT}/tools/tsan.supp"}
    ),
    "aarch64": module_tests("aarch64", AARCH64_MODULES, runner=("scripts/run_aarch64.sh",)),
    "fuzz": fuzz,
}

# What a step needs built: a preset and its targets (none: everything).
BUILDS: dict[str, list[str]] = {
    "ctest": ["release"],
    "asan": ["asan", *test_programs(ASAN_MODULES)],
    "tsan": ["tsan", *test_programs(TSAN_MODULES)],
    "aarch64": ["aarch64", *test_programs(AARCH64_MODULES), "ss_pipeline"],
    "fuzz": ["fuzz", *fuzzers()],
}


class Impossible(Exception):
    """A step cannot run on this machine; its text says why."""


def prepare_aarch64() -> None:
    """Raises Impossible where there is no cross-compiler, no qemu, or no source of arm64 libraries."""
    if platform.machine() == "aarch64":
        raise Impossible("this machine is aarch64: the other steps ran on it")
    missing = [tool for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64") if shutil.which(tool) is None]
    if missing:
        raise Impossible(f"not installed: {', '.join(missing)}")
    if run(log_of("aarch64"), ["scripts/aarch64_sysroot.sh"]) == 2:
        raise Impossible(log_of("aarch64").read_text().splitlines()[-1])


def build(step: str) -> int:
    """On idle time alone: a compiler must not make the tests beside it late."""
    if step == "aarch64":
        prepare_aarch64()
    return run(log_of(step), ["chrt", "--idle", "0", "scripts/build.sh", *BUILDS[step]])


def log_of(step: str) -> Path:
    return OUT / f"{step}.log"


def run_step(name: str, built: Future[int] | None, arguments: argparse.Namespace) -> Counts:
    counts, start = Counts(), time.monotonic()
    print(f"test: {name} ...", flush=True)
    try:
        if built is not None and built.result() != 0:
            counts.record(f"build {name}", False)
        else:
            STEPS[name](counts, log_of(name), arguments)
    except Impossible as reason:
        counts.skipped += 1
        print(f"  skipped: {reason}")
    skipped = f", {counts.skipped} skipped" if counts.skipped else ""
    print(f"test: {name}: {counts.passed} passed, {counts.failed} failed{skipped} in {time.monotonic() - start:.0f} s")
    for problem in counts.problems:
        print(f"  failed: {problem}")
    if counts.failed:
        print(f"  see {OUT.relative_to(ROOT)}/{name}*.log", flush=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="steps, separated by commas")
    parser.add_argument("--fuzz-seconds", type=int, default=5)
    arguments = parser.parse_args()
    wanted = set(arguments.only.split(",") if arguments.only else STEPS)
    unknown = wanted - set(STEPS)
    if unknown:
        parser.error(f"unknown steps {', '.join(sorted(unknown))}; known: {', '.join(STEPS)}")
    chosen = [name for name in STEPS if name in wanted]
    OUT.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        log_of(name).write_text("")
    total = Counts()
    builder = ThreadPoolExecutor(1)
    try:
        builds = {name: builder.submit(build, name) for name in chosen if name in BUILDS}
        for name in chosen:
            counts = run_step(name, builds.get(name), arguments)
            total.passed += counts.passed
            total.failed += counts.failed
    finally:
        builder.shutdown(cancel_futures=True)
    summary = f"{total.passed} passed, {total.failed} failed"
    (OUT / "summary.txt").write_text(summary + "\n")
    print(summary)
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main())
