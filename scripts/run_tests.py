#!/usr/bin/env python3
"""Runs the tests and counts them (all steps unless told); the last line is "N passed, N failed".

  lint     ruff, mypy, layer rules, clang-format
  ctest    the release build's C++ tests
  asan     module tests of what reads hostile bytes and lends buffers, under AddressSanitizer and UBSan
  tsan     module tests of what has threads, under ThreadSanitizer
  aarch64  cross-build up to the pipeline; tests of formats, codecs and kernels under qemu
  fuzz     every fuzzer, for some seconds each
  python   unit tests of the connector
  e2e      a real vLLM on a real data plane

Details lie in out/test/<step>.log. Exit status 0 only if nothing failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out" / "test"
BIN = Path(sys.executable).parent

# gRPC is not built for sanitizers: `rpc`, `server`, `app` and `cli` are tested in the release build only.
ASAN_MODULES = ("format", "mem", "store", "codec", "quant", "pipeline", "client")
TSAN_MODULES = ("flow", "pipeline", "client")
# What runs on any core alike. The pipeline's tests have clocks, which qemu makes slow: built only.
AARCH64_MODULES = ("format", "codec", "quant")


@dataclass
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    problems: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # why a whole step was skipped

    def record(self, name: str, good: bool) -> None:
        if good:
            self.passed += 1
        else:
            self.failed += 1
            self.problems.append(name)

    def skip(self, reason: str) -> None:
        self.skipped += 1
        self.reasons.append(reason)


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
            counts.record(f"{name}: {first_line(problem)}" if bad else name, not bad)


def first_line(problem: ElementTree.Element | None) -> str:
    """What a failed case says of itself; all of it is in the log."""
    message = "" if problem is None else problem.get("message") or problem.text or ""
    return " ".join(message.split())[:300]


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


def ctest(counts: Counts, log: Path, _: argparse.Namespace) -> None:
    if run(log, ["scripts/build.sh", "release"]) != 0:
        counts.record("build release", False)
        return
    results = OUT / "ctest.xml"
    results.unlink(missing_ok=True)
    run(log, ["ctest", "--test-dir", "build/release", "--output-on-failure", "-j2", "--output-junit", str(results)])
    read_junit(results, counts, "ctest")


def module_tests(
    preset: str,
    modules: tuple[str, ...],
    environment: dict[str, str] | None = None,
    runner: tuple[str, ...] = (),
    libraries: tuple[str, ...] = (),
) -> Callable[..., None]:
    """A step: builds the modules' tests, and `libraries`, with `preset` and runs the tests."""

    def results_of(program: str) -> Path:
        return OUT / f"{preset}-{program}.xml"

    def step(counts: Counts, log: Path, _: argparse.Namespace) -> None:
        for old in OUT.glob(f"{preset}-*.log"):
            old.unlink()
        programs = [f"{module}_test" for module in modules if any((ROOT / "src" / module).glob("*_test.cc"))]
        if run(log, ["scripts/build.sh", preset, *programs, *libraries]) != 0:
            counts.record(f"build {preset}", False)
            return

        def start(program: str) -> int:
            results_of(program).unlink(missing_ok=True)
            command = [*runner, f"build/{preset}/bin/{program}", f"--gtest_output=xml:{results_of(program)}"]
            return run(OUT / f"{preset}-{program}.log", command, environment, timeout_s=600)

        # Two at a time: the longest ones mostly wait for time-outs.
        with ThreadPoolExecutor(2) as pool:
            statuses = list(pool.map(start, programs))
        for program, status in zip(programs, statuses, strict=True):
            results = results_of(program)
            failed_before = counts.failed
            read_junit(results, counts, f"{preset} {program}")
            if status != 0 and counts.failed == failed_before:
                counts.record(f"{preset} {program}: exit status {status}", False)

    return step


def aarch64(counts: Counts, log: Path, arguments: argparse.Namespace) -> None:
    """Skipped where there is no cross-compiler, no qemu, or no source of arm64 libraries."""
    if platform.machine() == "aarch64":
        counts.skip("this machine is aarch64: the other steps ran on it")
        return
    missing = [tool for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64") if shutil.which(tool) is None]
    if missing:
        counts.skip(f"not installed: {', '.join(missing)}")
        return
    status = run(log, ["scripts/aarch64_sysroot.sh"])
    if status == 2:
        counts.skip(log.read_text().splitlines()[-1])
    elif status != 0:
        counts.record("libraries for aarch64", False)
    else:
        build_and_run = module_tests(
            "aarch64", AARCH64_MODULES, runner=("scripts/run_aarch64.sh",), libraries=("ss_pipeline",)
        )
        build_and_run(counts, log, arguments)


def fuzz(counts: Counts, log: Path, arguments: argparse.Namespace) -> None:
    programs = sorted(file.stem for file in (ROOT / "src").glob("*/*_fuzz.cc"))
    if run(log, ["scripts/build.sh", "fuzz", *programs]) != 0:
        counts.record("build fuzz", False)
        return
    for program in programs:
        corpus = ROOT / "build" / "fuzz" / "corpus" / program
        corpus.mkdir(parents=True, exist_ok=True)
        command = [f"build/fuzz/bin/{program}", str(corpus), f"-max_total_time={arguments.fuzz_seconds}"]
        command += ["-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={OUT}/{program}-"]
        counts.record(program, run(log, command, timeout_s=arguments.fuzz_seconds + 120) == 0)


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
    "asan": module_tests(
        "asan", ASAN_MODULES, {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    ),
    "tsan": module_tests(
        "tsan", TSAN_MODULES, {"TSAN_OPTIONS": f"halt_on_error=1 suppressions={ROOT}/tools/tsan.supp"}
    ),
    "aarch64": aarch64,
    "fuzz": fuzz,
    "python": pytest("python/tests"),
    "e2e": pytest("tests/e2e"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="steps, separated by commas")
    parser.add_argument("--fuzz-seconds", type=int, default=5)
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else list(STEPS)
    unknown = set(chosen) - set(STEPS)
    if unknown:
        parser.error(f"unknown steps {', '.join(sorted(unknown))}; known: {', '.join(STEPS)}")
    OUT.mkdir(parents=True, exist_ok=True)
    total = Counts()
    for name in chosen:
        log = OUT / f"{name}.log"
        log.write_text("")
        counts, start = Counts(), time.monotonic()
        print(f"test: {name} ...", flush=True)
        STEPS[name](counts, log, arguments)
        skipped = f", {counts.skipped} skipped" if counts.skipped else ""
        print(
            f"test: {name}: {counts.passed} passed, {counts.failed} failed{skipped} in {time.monotonic() - start:.0f} s"
        )
        for reason in counts.reasons:
            print(f"  skipped: {reason}")
        for problem in counts.problems:
            print(f"  failed: {problem}")
        if counts.failed:
            print(f"  see {log.relative_to(ROOT)}", flush=True)
        total.passed += counts.passed
        total.failed += counts.failed
    summary = f"{total.passed} passed, {total.failed} failed"
    (OUT / "summary.txt").write_text(summary + "\n")
    print(summary)
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main())
