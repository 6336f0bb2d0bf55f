#!/usr/bin/env python3
"""The long runs: engines without a model on a real data plane, compared byte by byte, under seeded faults.

  soak.py [--requests 100000] [--seed 1] [--store URL] [--vllm 300]

The driver (tests/soak) plays two engines through the real control plane and real page memory; here the data
plane is started and then stopped for a while (SIGSTOP), killed, and ended in order (SIGTERM), at seeded
moments, over a store that fails, loses, delays and damages. Of the last fifth of the requests on it is no
more killed, so that a leak would show in its memory. At the end nothing may be missing, held, leaked or
wrong. Then some hundreds of requests go through a real vLLM (soak_vllm.py).

`--store`: a store URL, `{folder}` is replaced by a fresh folder and `{seed}` by the seed. With faulty+, what
lies below is verified. Progress goes to standard output, the report to --report. Exit status 0 only if
nothing was found; with --break (the driver does wrong) only if that was found.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from dataplane import DAEMON, DataPlane  # noqa: E402

DRIVER = DAEMON.with_name("soak_driver")
FAULTS = "fault.delay_ms=1&fault.fail=0.001&fault.drop=0.002&fault.corrupt=0.002&fault.truncate=0.001&fault.seed={seed}"
STORE = "faulty+disk://{folder}?capacity=512MiB&" + FAULTS
BREAKS = ("late-write", "early-reuse", "flip")

# Of the faults these parts.
KINDS = {"stop": 0.6, "kill": 0.2, "kill_stopped": 0.1, "term": 0.1}
# Kills end here, so that the rest shows whether memory grows.
CALM_FROM = 0.8
GROWTH_MAX = 1.10
GROWTH_FREE = 16 << 20  # bytes: allocators and page tables are not exact
WARM_UP = 0.15  # of the driver's run
# A driver that is silent for so long hangs. The longest of its waits is 40 s.
SILENT_S = 120.0
# A daemon that has let go of all engines is back at rest within this.
REST_S = 60.0
PROGRESS_EVERY_S = 10.0


@dataclass
class Run:
    """What is known of one run while it goes on."""

    latest: dict[str, Any] = field(default_factory=dict)
    driver_rss: list[tuple[int, int]] = field(default_factory=list)  # (requests, bytes)
    daemon_rss: list[tuple[int, int, int]] = field(default_factory=list)  # (pid, requests, bytes)
    faults: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    stopped_s: float = 0.0
    counters: dict[str, float] = field(default_factory=dict)  # of daemons, as far as they could be asked
    findings: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return int(self.latest.get("requests", 0))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_lines(driver: subprocess.Popen[str], run: Run) -> None:
    assert driver.stdout is not None
    for line in driver.stdout:
        run.latest = json.loads(line)
        run.driver_rss.append((run.requests, run.latest["driver_rss"]))


def pause(seconds: float, driver: subprocess.Popen[str]) -> None:
    """Sleeps, but not beyond the driver's end."""
    end = time.monotonic() + seconds
    while driver.poll() is None and (left := end - time.monotonic()) > 0:
        time.sleep(min(0.05, left))


def count_up(plane: DataPlane, run: Run) -> None:
    """Adds what this life of the daemon counted. A killed one takes with it what came since the last look."""
    for name in ("shadowserve_corrupt_total", "shadowserve_fetch_requests_total", "shadowserve_saves_total"):
        run.counters[name] = run.counters.get(name, 0) + plane.metric(name)


def inject(kind: str, plane: DataPlane, run: Run, moments: random.Random, arguments: argparse.Namespace) -> None:
    run.faults[kind] += 1
    if kind in ("stop", "kill_stopped"):
        shortest, longest = arguments.stop_s
        seconds = shortest * (longest / shortest) ** moments.random()  # short ones are as likely as long ones
        if kind == "kill_stopped":
            count_up(plane, run)
        plane.signal(signal.SIGSTOP)
        time.sleep(seconds)
        run.stopped_s += seconds
        if kind == "kill_stopped":
            os.kill(plane.pid, signal.SIGKILL)  # it never wakes up
            plane.kill()
        else:
            plane.signal(signal.SIGCONT)
    elif kind == "kill":
        count_up(plane, run)
        plane.kill()
    else:
        count_up(plane, run)
        if (status := plane.stop()) != 0:
            run.findings.append(f"SIGTERM: shadowserved exited with {status}")
    if kind != "stop":
        time.sleep(moments.uniform(0, arguments.stop_s[1] / 3))  # away for a while
        plane.start()


def watch(driver: subprocess.Popen[str], plane: DataPlane, run: Run, arguments: argparse.Namespace) -> None:
    """Injects faults and prints progress until the driver ends."""
    moments = random.Random(arguments.seed)
    start = last_progress = last_change = time.monotonic()
    last_requests = -1
    while driver.poll() is None:
        pause(moments.expovariate(1 / arguments.fault_every_s), driver)
        if driver.poll() is not None:
            break
        if (status := plane.ended()) is not None:
            run.findings.append(f"shadowserved ended by itself with {status}")
            driver.kill()
            return
        calm = arguments.only_stops or run.requests >= CALM_FROM * arguments.requests
        kind = "stop" if calm else moments.choices(list(KINDS), list(KINDS.values()))[0]
        run.daemon_rss.append((plane.pid, run.requests, resident_bytes(plane.pid)))
        if arguments.faults:
            inject(kind, plane, run, moments, arguments)
        now = time.monotonic()
        if run.requests != last_requests:
            last_requests, last_change = run.requests, now
        elif now - last_change > SILENT_S:
            run.findings.append(f"no request ended for {SILENT_S:.0f} s")
            driver.kill()
        if now - last_progress >= PROGRESS_EVERY_S:
            last_progress = now
            print_progress(run, now - start)


def print_progress(run: Run, seconds: float) -> None:
    latest = run.latest
    if not latest:
        return
    print(
        f"soak: {run.requests} requests in {seconds:.0f} s ({run.requests / seconds:.0f}/s),"
        f" {latest['loads_good']} loads good, {latest['loads_failed']} failed, {latest['misses']} misses,"
        f" {latest['bytes_checked'] / 1e9:.1f} GB checked, {sum(run.faults.values())} faults,"
        f" memory {latest['driver_rss'] >> 20}+{run.daemon_rss[-1][2] >> 20 if run.daemon_rss else 0} MiB,"
        f" {latest['violations']} violations",
        flush=True,
    )


def grown(samples: list[tuple[int, int]]) -> str | None:
    """None when the largest of the last half is not much more than the largest of the first."""
    if len(samples) < 6:
        return None
    middle = len(samples) // 2
    first, last = (max(size for _, size in part) for part in (samples[:middle], samples[middle:]))
    return None if last <= first * GROWTH_MAX + GROWTH_FREE else f"{first >> 20} MiB, then {last >> 20} MiB"


def audit_memory(run: Run, arguments: argparse.Namespace) -> None:
    steady = [sample for sample in run.driver_rss if sample[0] >= WARM_UP * arguments.requests]
    if growth := grown(steady):
        run.findings.append(f"the driver's memory grows: {growth}")
    if run.daemon_rss:
        last_pid = run.daemon_rss[-1][0]
        lives = [(requests, size) for pid, requests, size in run.daemon_rss if pid == last_pid]
        # Its slabs and the store's index fill up first.
        if growth := grown(lives[len(lives) // 4 :]):
            run.findings.append(f"the data plane's memory grows: {growth}")


def audit_plane(plane: DataPlane, run: Run) -> None:
    """The driver has gone: slabs free, stages empty, and a good exit."""
    try:
        plane.wait_until(lambda: plane.metric("shadowserve_sessions") == 0, REST_S)
        plane.wait_until(lambda: plane.metric("shadowserve_slabs", state="used") == 0, REST_S)
        plane.wait_until(lambda: plane.metric("shadowserve_stage_inflight") == 0, REST_S)
    except TimeoutError:
        for name in ("shadowserve_sessions", "shadowserve_slabs", "shadowserve_stage_inflight"):
            run.findings.append(f"at rest {name} is {plane.metric(name, state='used') or plane.metric(name):.0f}")
    count_up(plane, run)
    if (status := plane.stop()) != 0:
        run.findings.append(f"shadowserved exited with {status} at the end")


def below_faults(url: str) -> str:
    """The store without the wrapper that makes faults."""
    url = re.sub(r"fault\.\w+=[^&]*&?", "", url.removeprefix("faulty+"))
    return url.rstrip("?&")


def audit_store(folder: Path, url: str, run: Run) -> int:
    """Objects in the store; each must be sound: faults show in what is read, never in what lies there."""
    if "memory:" in url:
        print("soak: a memory store ends with its process: nothing is verified")
        return 0
    with_own_folder = DataPlane(folder / "verify", store=below_faults(url))
    with_own_folder.start()
    try:
        found = with_own_folder.verify()
    finally:
        with_own_folder.close()
    if found["damaged"]:
        run.findings.append(
            f"{len(found['damaged'])} of {found['checked']} objects are damaged: {found['damaged'][:3]}"
        )
    return int(found["checked"])


def audit_logs(folder: Path, run: Run) -> None:
    text = (folder / "plane" / "shadowserved.log").read_text(errors="replace")
    lines = [line for line in text.splitlines() if " error shadowserve:" in line or "check failed" in line]
    if lines:
        run.findings.append(f"the data plane's log has {len(lines)} errors, the first: {lines[0][:200]}")


def soak(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    store_folder = folder / "store"
    store_folder.mkdir(parents=True)
    url = arguments.store.replace("{folder}", str(store_folder)).replace("{seed}", str(arguments.seed))
    settings = {"SHADOWSERVE_LOG_LEVEL": "warn"}
    plane = DataPlane(folder / "plane", url, arguments.profile, arguments.lossless, environment=settings)
    run = Run()
    start = time.monotonic()
    command = [str(DRIVER), "--data-plane", plane.address, "--requests", str(arguments.requests)]
    command += ["--seed", str(arguments.seed), "--fetch-deadline", str(arguments.fetch_deadline)]
    if arguments.break_:
        command += ["--break", arguments.break_]
    plane.start()
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    reader = threading.Thread(target=read_lines, args=(driver, run), daemon=True)
    reader.start()
    try:
        watch(driver, plane, run, arguments)
        reader.join(10)
        if driver.returncode not in (0, 1) or not run.latest.get("final"):
            run.findings.append(f"the driver ended with {driver.returncode}")
        run.findings += run.latest.get("violation_texts", [])
        if plane.ended() is None:
            audit_plane(plane, run)
        audit_memory(run, arguments)
        audit_logs(folder, run)
        objects = audit_store(folder, url, run)
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.wait()
        plane.close()
    seconds = time.monotonic() - start
    return {
        "requests": run.requests,
        "seconds": round(seconds, 1),
        "requests_per_s": round(run.requests / seconds, 1),
        "seed": arguments.seed,
        "store": url.replace(str(folder), ""),
        "profile": arguments.profile,
        "lossless": arguments.lossless,
        "faults": run.faults,
        "stopped_s": round(run.stopped_s, 1),
        "daemon_counters": run.counters,
        "daemon_rss_last": run.daemon_rss[-1][2] if run.daemon_rss else 0,
        "objects_verified": objects,
        "findings": run.findings,
        "driver": {key: run.latest[key] for key in run.latest if key not in ("final", "violation_texts")},
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", default=STORE)
    parser.add_argument("--profile", choices=("raw", "lossless"), default="lossless", help="exact ones")
    parser.add_argument("--lossless", choices=("zstd", "deflate", "none"), default="zstd")
    parser.add_argument("--fetch-deadline", type=float, default=1.5)
    parser.add_argument("--fault-every-s", type=float, default=3.0, help="mean seconds between two faults")
    parser.add_argument("--stop-s", type=float, nargs=2, default=(0.1, 3.0), help="shortest and longest SIGSTOP")
    parser.add_argument("--only-stops", action="store_true", help="no kills and restarts")
    parser.add_argument("--no-faults", dest="faults", action="store_false", help="of the data plane")
    parser.add_argument("--break", dest="break_", choices=BREAKS, help="the driver does wrong: must be found")
    parser.add_argument("--vllm", type=int, default=0, help="requests through a real vLLM afterwards")
    parser.add_argument("--report", type=Path, default=ROOT / "out" / "soak" / "report.json")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=arguments.report.parent.resolve()))
    report: dict[str, Any] = {}
    try:
        report = soak(arguments, folder)
        if arguments.vllm > 0:
            from soak_vllm import soak_vllm

            report["vllm"] = soak_vllm(arguments.vllm, arguments.seed, folder / "vllm")
            report["findings"] += report["vllm"].pop("findings")
    finally:
        shutil.rmtree(folder / "store", ignore_errors=True)
        if arguments.break_ or (report and not report["findings"]):
            shutil.rmtree(folder, ignore_errors=True)
    arguments.report.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    found = bool(report["findings"])
    if arguments.break_:
        # The driver's own checks must have found it.
        found = report["driver"]["violations"] == 0
        print(f"soak: --break {arguments.break_} was {'NOT found' if found else 'found'}")
    else:
        print(f"soak: {len(report['findings'])} findings; {arguments.report}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
