#!/usr/bin/env python3
"""How much of a link the Redis client fills: its GETs beside iperf3, at each rate, in one run.

  bench_link.py [--rates 1,5,10] [--streams 4] [--seconds 4] [--rounds 3] [--json]

redis-server on one host, the client on another (tests/e2e/two_hosts.py: namespaces, veth, tc tbf; needs root).
In each round iperf3 sends from the store's host, then the client (BM_GivenServerGet of store_bench: 1 MiB values,
16 in flight) gets from redis-server, over as many connections. Rates count bytes of values, without headers.

Both ends and the link itself run on the CPUs of this machine. So beside each figure stands how many cores were
busy, with whatever else runs here, and how many of them redis-server took: with all cores, or redis-server's one,
full, the figure may say what the CPU gives, not the link. Where other work runs, put it aside:
`chrt -f 1 scripts/bench_link.py` comes before all of it. Exit status 1 when a ratio is below 0.95.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from dataplane import DAEMON  # noqa: E402
from redis_server import RedisServer  # noqa: E402
from two_hosts import TwoHosts, why_not  # noqa: E402

BENCH = DAEMON.with_name("store_bench")
TARGET = 0.95
FULL = 0.95  # of a core, or of all
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Figure:
    """Of one round, or the medians of several. Cores: busy ones, mean over the run with its preparation."""

    gigabits_per_s: float
    busy_cores: float
    redis_cores: float
    receiver_cpu_s_per_gb: float  # of the process that receives, by its own account, while it measures


def busy_seconds() -> float:
    """Of all CPUs so far; what the hypervisor gave to others is none of it."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, _steal = fields
    return (user + nice + system + irq + softirq) / TICKS


def process_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def observe(redis_pid: int, measure: Callable[[], tuple[float, float]]) -> Figure:
    start, busy, redis = time.monotonic(), busy_seconds(), process_seconds(redis_pid)
    bits_per_s, receiver_cpu_s_per_gb = measure()
    seconds = time.monotonic() - start
    return Figure(
        bits_per_s / 1e9,
        (busy_seconds() - busy) / seconds,
        (process_seconds(redis_pid) - redis) / seconds,
        receiver_cpu_s_per_gb,
    )


def iperf3(hosts: TwoHosts, streams: int, seconds: float) -> tuple[float, float]:
    address = hosts.store.address
    with hosts.store.entered():
        server = subprocess.Popen(
            ["iperf3", "--server", "--one-off", "--bind", address, "--forceflush"], stdout=subprocess.PIPE, text=True
        )
    with server:
        try:
            assert server.stdout is not None
            while "listening" not in (line := server.stdout.readline()):
                if not line:
                    raise RuntimeError("iperf3 does not listen")
            # --reverse: the server sends. The first second, in which TCP grows its windows, does not count.
            command = ["iperf3", "--client", address, "--reverse", "--omit", "1", "--json"]
            command += ["--parallel", str(streams), "--time", str(round(seconds))]
            with hosts.engine.entered():
                done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
            report = json.loads(done.stdout)
            if "error" in report:
                raise RuntimeError(f"iperf3: {report['error']}")
            bits_per_s = float(report["end"]["sum_received"]["bits_per_second"])
            receiver_cores = report["end"]["cpu_utilization_percent"]["host_total"] / 100
            return bits_per_s, receiver_cores / (bits_per_s / 8e9)
        finally:
            server.kill()


def get(hosts: TwoHosts, redis: RedisServer, streams: int, seconds: float) -> tuple[float, float]:
    command = [str(BENCH), "--benchmark_filter=BM_GivenServerGet", "--benchmark_format=json"]
    url = f"redis://{redis.address}:{redis.port}?connections={streams}"
    with hosts.engine.entered():
        done = subprocess.run(
            [*command, f"--benchmark_min_time={seconds}"],
            capture_output=True,
            text=True,
            timeout=seconds * 10 + 60,
            env=os.environ | {"SS_BENCH_REDIS": url},
        )
    if done.returncode != 0:
        raise RuntimeError(f"store_bench: {done.stderr.strip()}")
    report = json.loads(done.stdout)["benchmarks"][0]
    if report.get("error_occurred"):
        raise RuntimeError(f"store_bench: {report['error_message']}")
    return 8 * report["bytes_per_second"], report["client_cpu_s_per_GB"]


def middle(figures: list[Figure]) -> Figure:
    return Figure(*(median(values) for values in zip(*map(astuple, figures), strict=True)))


def measure(rate: float, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    with TwoHosts(rate) as hosts:
        redis = RedisServer(folder, hosts.store.address)
        try:
            with hosts.store.entered():
                redis.start()
            links, gets = [], []
            for _ in range(arguments.rounds):
                links.append(observe(redis.pid, lambda: iperf3(hosts, arguments.streams, arguments.seconds)))
                gets.append(observe(redis.pid, lambda: get(hosts, redis, arguments.streams, arguments.seconds)))
        finally:
            redis.kill()
    ratios = [ours.gigabits_per_s / link.gigabits_per_s for ours, link in zip(gets, links, strict=True)]
    ours = middle(gets)
    cores = os.cpu_count() or 1
    return {
        "link_gigabits_per_s": rate,
        "iperf3": asdict(middle(links)),
        "get": asdict(ours),
        "ratio": median(ratios),
        "ratio_of_rounds": ratios,
        "cpu_full": ours.busy_cores >= FULL * cores or ours.redis_cores >= FULL,
    }


def text_of(row: dict[str, Any]) -> str:
    link, ours = row["iperf3"], row["get"]
    rounds = " ".join(f"{ratio:.3f}" for ratio in row["ratio_of_rounds"])
    return (
        f"{row['link_gigabits_per_s']:>4g} Gbit/s: GET {ours['gigabits_per_s']:.2f}, iperf3"
        f" {link['gigabits_per_s']:.2f} Gbit/s, ratio {row['ratio']:.3f} (rounds {rounds});"
        f" busy cores {ours['busy_cores']:.2f} and {link['busy_cores']:.2f} of {os.cpu_count()},"
        f" redis-server {ours['redis_cores']:.2f}; receivers"
        f" {ours['receiver_cpu_s_per_gb']:.3f} and {link['receiver_cpu_s_per_gb']:.3f} CPU-s per GB"
        f"{'; CPU full' if row['cpu_full'] else ''}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="1,5,10", help="of the link, in Gbit/s")
    parser.add_argument("--streams", type=int, default=4, help="connections, of iperf3 and of the client")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of iperf3 and GETs in turn; the median counts")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if (reason := why_not()) is not None:
        parser.error(reason)
    for program, remedy in (("iperf3", "apt: iperf3"), (str(BENCH), "scripts/build.sh release store_bench")):
        if shutil.which(program) is None:
            parser.error(f"no {program} ({remedy})")
    rows = []
    for rate in map(float, arguments.rates.split(",")):
        with tempfile.TemporaryDirectory(prefix="ss-link-") as folder:
            rows.append(measure(rate, Path(folder), arguments))
        if not arguments.json:
            print(text_of(rows[-1]), flush=True)
    if arguments.json:
        print(json.dumps({"streams": arguments.streams, "cores": os.cpu_count(), "rates": rows}, indent=2))
    return 0 if all(row["ratio"] >= TARGET for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
