"""The store on another host: redis-server behind a link, the data plane and its engines on this side of it.

The engines are those of the soak (tests/soak): without a model, with every loaded byte compared; and the vLLM
that other tests share. That one stays where it is: only its data plane moves, which it reaches by a Unix socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from compare import disagreement
from dataplane import DAEMON, DataPlane
from redis_server import RedisServer, skip_without_redis
from rig import OUTPUT_TOKENS, Rig, prompt, wait_for_hit
from two_hosts import TwoHosts, why_not

DRIVER = DAEMON.with_name("soak_driver")
# Of a load, in the driver: so long that only the store's own time-out (0.5 s) can end one earlier.
DEADLINE_S = 20


@pytest.fixture(scope="module", autouse=True)
def needs() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    skip_without_redis()
    if not DRIVER.exists():
        pytest.skip("soak_driver is not built (scripts/build.sh release soak_driver)")


@dataclass
class Site:
    hosts: TwoHosts
    plane: DataPlane

    def start_engines(self, requests: int) -> subprocess.Popen[str]:
        """Two engines; every run has the same prompts and nothing in its own memory."""
        command = [str(DRIVER), "--data-plane", self.plane.address, "--fetch-deadline", str(DEADLINE_S)]
        return subprocess.Popen([*command, "--requests", str(requests)], stdout=subprocess.PIPE, text=True)

    def run_engines(self, requests: int) -> dict[str, Any]:
        with ended(self.start_engines(requests)) as engines:
            return sound_report(engines, requests)

    def store_errors(self) -> float:
        failed = self.plane.metric("shadowserve_fetch_requests_total", result="unavailable")
        return failed + self.plane.metric("shadowserve_lookups_total", result="error")


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


def sound_report(engines: subprocess.Popen[str], requests: int) -> dict[str, Any]:
    """What they say at their end: each request ended once, each loaded byte is right."""
    output, _ = engines.communicate(timeout=120)
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    assert engines.returncode == 0 and report["final"], report
    assert (report["requests"], report["violations"]) == (requests, 0), report
    return report


@contextlib.contextmanager
def far_redis(gigabits_per_s: float, folder: Path) -> Iterator[tuple[TwoHosts, RedisServer]]:
    with TwoHosts(gigabits_per_s) as hosts:
        redis = RedisServer(folder, hosts.store.address)
        try:
            with hosts.store.entered():
                redis.start()
            yield hosts, redis
        finally:
            redis.kill()


@contextlib.contextmanager
def site(gigabits_per_s: float, folder: Path) -> Iterator[Site]:
    """The calling thread is on the engines' host meanwhile."""
    with far_redis(gigabits_per_s, folder) as (hosts, redis), hosts.engine.entered():
        plane = DataPlane(folder / "plane", store=redis.url)
        try:
            plane.start()
            yield Site(hosts, plane)
        finally:
            plane.close()


def move(plane: DataPlane, store: str) -> None:
    """To another store, and to the host that the calling thread is on."""
    plane.store = store
    plane.restart()
    plane.wait_for_sessions()


@pytest.mark.parametrize("gigabits_per_s", [1, 5, 10])
def test_what_was_saved_over_the_link_is_loaded_over_it_unchanged(gigabits_per_s: float, tmp_path: Path) -> None:
    with site(gigabits_per_s, tmp_path) as there:
        report = there.run_engines(120)
        assert report["saves_stored"] > 0
        assert report["loads_good"] > 0
        assert there.store_errors() == 0
        loaded = there.plane.metric("shadowserve_wire_bytes_total", direction="in")
        assert there.hosts.engine.received_bytes() >= loaded > 0


def test_a_partition_costs_misses_after_one_time_out_and_heals_without_a_restart(tmp_path: Path) -> None:
    with site(5, tmp_path) as there:
        plane = there.plane
        with ended(there.start_engines(400)) as engines:
            plane.wait_until(lambda: plane.metric("shadowserve_fetch_requests_total", result="ok") >= 10)
            errors = there.store_errors()
            with there.hosts.partitioned():
                plane.wait_until(lambda: "unavailable" in plane.log.read_text(), 20)
                # They go on as engines without a cache, to their end.
                report = sound_report(engines, 400)
                assert there.store_errors() > errors
                loaded = plane.metric("shadowserve_fetch_requests_total", result="ok")
                assert there.run_engines(50)["loads"] == 0
                assert plane.metric("shadowserve_fetch_requests_total", result="ok") == loaded
        assert report["load_ms_max"] < DEADLINE_S * 1000 / 4
        assert plane.metric("shadowserve_fetch_requests_total", result="deadline") == 0
        plane.wait_until(lambda: "available again" in plane.log.read_text(), 20)
        assert there.run_engines(50)["loads_good"] > 0  # of what was stored before


@pytest.mark.engine
def test_vllm_gets_hits_over_the_link_and_computes_without_it(rig: Rig, tmp_path: Path) -> None:
    before = rig.plane.store
    tokens = prompt(1300, 7100)
    with far_redis(1, tmp_path) as (hosts, redis):
        try:
            with hosts.engine.entered():
                move(rig.plane, redis.url)
                reference = rig.save(tokens)
                rig.forget()
                rig.expect_hit(tokens, 1280, reference)
                loaded = rig.plane.metric("shadowserve_wire_bytes_total", direction="in")
                assert hosts.engine.received_bytes() >= loaded > 0
                rig.forget()
                with hosts.partitioned():
                    answer = rig.engine.generate(tokens, OUTPUT_TOKENS)
                    assert answer.cached == 0
                    assert disagreement(reference, answer) is None
                wait_for_hit(rig, tokens, 1280, reference)
        finally:
            move(rig.plane, before)


def test_hosts_leave_nothing_behind_after_a_failure() -> None:
    def namespaces() -> set[str]:
        """Those that a process is in or that this one holds."""
        found = set()
        for link in [*Path("/proc").glob("[0-9]*/ns/net"), *Path("/proc/self/fd").iterdir()]:
            with contextlib.suppress(OSError):  # it may end meanwhile
                found.add(os.readlink(link))
        return found

    def fail() -> None:
        with TwoHosts(1) as hosts, hosts.partitioned(), hosts.engine.entered():
            made.update(os.readlink(f"/proc/self/fd/{host.namespace}") for host in (hosts.store, hosts.engine))
            assert here not in made and made <= namespaces()
            raise ZeroDivisionError

    here = os.readlink("/proc/thread-self/ns/net")
    made: set[str] = set()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.readlink("/proc/thread-self/ns/net") == here
    assert not made & namespaces()
