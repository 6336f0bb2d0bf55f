"""A data plane that stops, dies or was never there is plain vLLM, and hits come back without a restart."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from compare import disagreement
from dataplane import DataPlane
from rig import OUTPUT_TOKENS, PLANE_CORES, Rig, make_engine, prompt

pytestmark = pytest.mark.engine


def wait_for_hit(rig: Rig, tokens: list[int], cached: int, timeout_s: float = 60) -> None:
    """The engine finds the data plane again by itself."""
    end = time.monotonic() + timeout_s
    while True:
        rig.forget()
        if rig.engine.generate(tokens, 1).cached == cached:
            return
        assert time.monotonic() < end, f"no hit within {timeout_s} s"
        time.sleep(0.2)


def test_a_stopped_data_plane_costs_a_timeout_never_a_request(other_rig: Rig) -> None:
    tokens = prompt(1100, 50)
    reference = other_rig.save(tokens)
    other_rig.forget()
    other_rig.plane.signal(signal.SIGSTOP)
    try:
        start = time.monotonic()
        answer = other_rig.engine.generate(tokens, OUTPUT_TOKENS)
        assert time.monotonic() - start < 30
        assert disagreement(reference, answer) is None
    finally:
        other_rig.plane.signal(signal.SIGCONT)
    wait_for_hit(other_rig, tokens, 1024)


def test_a_killed_data_plane_is_a_miss_until_it_is_back(other_rig: Rig) -> None:
    tokens = prompt(1100, 51)
    reference = other_rig.save(tokens)
    other_rig.plane.kill()
    other_rig.engine.reset_local_cache()
    answer = other_rig.engine.generate(tokens, OUTPUT_TOKENS)
    assert disagreement(reference, answer) is None
    other_rig.plane.start()
    wait_for_hit(other_rig, tokens, 1024)


def test_kills_at_many_moments_of_a_fetch_never_change_an_answer(other_rig: Rig) -> None:
    tokens = prompt(2400, 52)
    reference = other_rig.save(tokens)
    for attempt in range(6):
        wait_for_hit(other_rig, tokens, 2304)
        other_rig.forget()
        future = other_rig.engine.submit(tokens, OUTPUT_TOKENS)
        time.sleep(0.002 + 0.004 * attempt)
        other_rig.plane.kill()
        assert disagreement(reference, future.result(120)) is None
        other_rig.plane.start()
    wait_for_hit(other_rig, tokens, 2304)


def test_an_engine_without_a_data_plane_serves_and_hits_when_it_comes(rig: Rig, model: Path, tmp_path: Path) -> None:
    tokens = prompt(1100, 53)
    reference = rig.engine.generate(tokens, OUTPUT_TOKENS)
    late_plane = DataPlane(tmp_path, cores=PLANE_CORES)
    with make_engine(model, late_plane, "no_plane") as lonely:
        answer = lonely.generate(tokens, OUTPUT_TOKENS)
        assert (answer.cached, disagreement(reference, answer)) == (0, None)
        late_plane.start()
        late_rig = Rig(lonely, late_plane)
        try:
            wait_for_hit(late_rig, tokens, 1024)
        finally:
            late_plane.close()
