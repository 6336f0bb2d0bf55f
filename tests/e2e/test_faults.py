"""A data plane that stops, dies or was never there is plain vLLM, and hits come back without a restart."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from compare import disagreement
from dataplane import DataPlane
from rig import OUTPUT_TOKENS, PLANE_CORES, Rig, make_engine, prompt, wait_for_hit

pytestmark = pytest.mark.engine

FAULTS = ["kill", "0.3", "kill", "2.5", "kill"]  # the end of the data plane, or seconds that it is stopped


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
    for attempt in range(4):
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


def test_random_kills_and_stalls_of_fetches_and_saves_never_change_an_answer(fence: Rig) -> None:
    """Each round one request fetches and one is saved when the fault comes."""
    moments = random.Random(54)
    known = prompt(1300, 54)
    known_reference = fence.save(known)
    fresh = [prompt(800, 200 + number) for number in range(len(FAULTS))]
    futures = [fence.engine.submit(tokens, OUTPUT_TOKENS, salt="reference") for tokens in fresh]
    references = [future.result(120) for future in futures]
    for fault, tokens, reference in zip(FAULTS, fresh, references, strict=True):
        wait_for_hit(fence, known, 1280)
        fence.forget()
        saved = fence.engine.submit(tokens, OUTPUT_TOKENS)
        time.sleep(moments.uniform(0.0, 0.5))
        fetched = fence.engine.submit(known, OUTPUT_TOKENS)
        time.sleep(moments.uniform(0.0, 0.02))
        if fault == "kill":
            fence.plane.kill()
        else:
            fence.plane.signal(signal.SIGSTOP)
            time.sleep(float(fault))
            fence.plane.signal(signal.SIGCONT)
        # Bounded by the deadline of a load (1.5 s) and of a lookup (1 s), not by the fault.
        assert disagreement(known_reference, fetched.result(30)) is None
        assert disagreement(reference, saved.result(30)) is None
        if fault == "kill":
            fence.plane.start()
    for tokens, reference in zip(fresh, references, strict=True):
        wait_for_hit(fence, tokens, 768, reference)
    assert fence.plane.verify()["damaged"] == []
