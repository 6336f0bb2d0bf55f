#!/usr/bin/env python3
"""What ShadowServe costs vLLM's scheduler thread: the connector's hooks, timed with the real control
plane (`_core`) and a real shadowserved on a Unix socket, with stand-ins for vLLM's own objects.

Prints one JSON object, times in microseconds: of this thread's CPU, and of the wall clock, which on a
busy machine also holds whoever ran in between. `once` is on_new_request (keys and lookup) of a prompt of
--tokens tokens, the others are the later hooks. Bounds (median CPU time): 1 ms once per request at 32k
tokens, 50 us for each later call; exits 1 when one is exceeded. The first get_num_new_matched_tokens may
wait up to 300 us for the lookup's answer by design; it is reported apart, as `first_ask`, without a bound. So is
`report_before_the_end_is_known`: a failed load of which the data plane has not said that no write will come,
so that all of its pages are held.

    PYTHONPATH=python .venv/bin/python scripts/bench_scheduler.py [--tokens 32768] [--requests 60]
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "python" / "tests")]

from fakes import CHUNK_TOKENS, FakeBlockPool, make_request, reports, step, table  # noqa: E402
from shadowserve import _core  # noqa: E402
from shadowserve.config import ConnectorConfig  # noqa: E402
from shadowserve.fingerprint import Identity  # noqa: E402
from shadowserve.model_facts import ModelFacts  # noqa: E402
from shadowserve.scheduler_half import SchedulerHalf, manager_options  # noqa: E402

ONCE_BOUND_US = 1000.0
LATER_BOUND_US = 50.0
LATER = ("get_num_new_matched_tokens", "update_state_after_alloc", "build_connector_meta", "update_connector_output")
ANSWER_S = 0.005  # within this the data plane has said that a load is over


class Times:
    def __init__(self) -> None:
        self.taken: dict[str, list[tuple[float, float]]] = {}  # wall, CPU of this thread

    def call(self, name: str, work: Callable[..., Any], *arguments: Any) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        work(*arguments)
        taken = ((time.perf_counter() - wall) * 1e6, (time.thread_time() - cpu) * 1e6)
        self.taken.setdefault(name, []).append(taken)

    def report(self) -> dict[str, dict[str, float]]:
        return {
            name: {
                "cpu_median_us": round(statistics.median(cpu for _, cpu in times), 1),
                "wall_median_us": round(statistics.median(wall for wall, _ in times), 1),
                "wall_p99_us": round(sorted(wall for wall, _ in times)[int(len(times) * 0.99)], 1),
                "calls": len(times),
            }
            for name, times in self.taken.items()
        }


def run(half: SchedulerHalf, tokens: int, requests: int, page_tokens: int) -> Times:
    times = Times()
    pages = list(range(tokens // page_tokens))
    external = (tokens - 1) // CHUNK_TOKENS * CHUNK_TOKENS
    for number in range(requests):
        name = f"request-{number}"
        # Other tokens each time; as vLLM gives them: a list of Python ints.
        prompt = [(number * 7919 + index) % 100_000 for index in range(tokens)]
        request = make_request(name, tokens, prompt_token_ids=prompt, all_token_ids=prompt)
        times.call("once", half.on_new_request, request)
        times.call("first_ask", half.matched_tokens, request, 0)
        for _ in range(5):
            times.call("get_num_new_matched_tokens", half.matched_tokens, request, 0)
        # A load of the whole prompt is sent; no worker is there, so it fails.
        times.call("update_state_after_alloc", half.allocated, request, table(pages), external)
        # Of every second one it is not known yet whether a write may still come: its pages are held.
        early = number % 2 == 1
        if not early:
            time.sleep(ANSWER_S)
        report = "report_before_the_end_is_known" if early else "update_connector_output"
        times.call(report, half.worker_reported, reports({name}, {name}))
        for done in range(1, 6):
            request.num_computed_tokens = min(tokens, done * 2048)
            times.call("build_connector_meta", half.step_metadata, step({name: 2048}, {name: pages}))
        half.finished(request, pages)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--daemon", type=Path, default=ROOT / "build/release/bin/shadowserved")
    options = parser.parse_args()
    facts = ModelFacts(
        layers=32, kv_heads=8, head_dim=128, dtype="bf16", page_tokens=128, page_count=4096, world_size=1
    )
    with tempfile.TemporaryDirectory(prefix="ss-") as sockets:
        address = f"unix://{sockets}/s"
        daemon = subprocess.Popen(
            [options.daemon, "--listen", address, "--log-level", "warn"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert daemon.stdout is not None
            if not daemon.stdout.readline().startswith("shadowserved ready"):
                raise RuntimeError("shadowserved did not get ready")
            config = ConnectorConfig(data_plane=address)
            manager = _core.KvManager(manager_options(config, facts, "bench", b"R" * 32, save=True, early_write=True))
            if not manager.wait_ready(10):
                raise RuntimeError("the data plane did not accept the session")
            half = SchedulerHalf(manager, Identity(_core), config, facts, logging.getLogger("bench"))
            half.bind_block_pool(FakeBlockPool(facts.page_count))
            times = run(half, options.tokens, options.requests, facts.page_tokens)
            half.close()
        finally:
            daemon.terminate()
            daemon.wait(30)
    report = times.report()
    print(json.dumps({"tokens": options.tokens, **report}, indent=2))
    late = [name for name in LATER if report[name]["cpu_median_us"] > LATER_BOUND_US]
    return 1 if late or report["once"]["cpu_median_us"] > ONCE_BOUND_US else 0


if __name__ == "__main__":
    sys.exit(main())
