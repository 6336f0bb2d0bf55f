"""An engine of two tensor-parallel ranks and one of a single rank, each with a data plane of its own, share one
Redis: head groups are stored and fetched by whoever holds the heads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from compare import disagreement
from dataplane import DataPlane
from engine import Answer, Engine
from redis_server import RedisServer
from rig import CORES, MODEL, OUTPUT_TOKENS, PLANE_CORES, Rig, make_engine, prompt, wait_for_hit

pytestmark = pytest.mark.engine

RANKS = 2


@pytest.fixture(scope="module")
def single(engine: Engine, plane: DataPlane, redis: RedisServer) -> Iterator[Rig]:
    with plane.serving(store=redis.url, format_head_groups=str(RANKS)):
        yield Rig(engine, plane)


@pytest.fixture(scope="module")
def parallel(model: Path, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    data_plane = DataPlane(
        tmp_path_factory.mktemp("parallel"),
        store=redis.url,
        cores=PLANE_CORES,
        environment={"SHADOWSERVE_FORMAT_HEAD_GROUPS": str(RANKS)},
    )
    data_plane.start()
    try:
        # Ranks wait for each other by spinning: on one core they would wait for the scheduler as well.
        with make_engine(model, data_plane, "tensor_parallel", tensor_parallel=RANKS, cores=CORES) as started:
            yield Rig(started, data_plane)
    finally:
        data_plane.close()


@pytest.fixture(autouse=True)
def fresh(single: Rig, parallel: Rig) -> None:
    single.forget()
    parallel.forget()


def values(rig: Rig, tokens: list[int], name: str) -> np.ndarray:
    """bf16 KV of the prompt's whole chunks as [layer][head][K|V][token][dim], over the heads of all ranks."""
    count = len(tokens) // 256 * 256
    with rig.engine.running(tokens, name):
        answers = rig.engine.workers("canonical_values", name, count, MODEL.head_dim)
    parts = [np.frombuffer(data, np.uint16).reshape(MODEL.layers, -1, 2, count, MODEL.head_dim) for data in answers]
    whole = np.concatenate(parts, axis=1)
    assert whole.shape[1] == MODEL.kv_heads
    return whole


def test_two_ranks_hit_what_they_saved(parallel: Rig, redis: RedisServer) -> None:
    before = len(redis.keys("*"))
    tokens = prompt(1300, 8000)
    reference = parallel.save(tokens)
    assert reference.cached == 0
    for group in range(RANKS):
        assert len(redis.keys(f"*:h{group}of{RANKS}:seg")) == 5
    assert len(redis.keys("*")) == before + 5 * 2 * RANKS
    parallel.forget()
    parallel.expect_hit(tokens, 1280, reference)
    longer = tokens[:1100] + prompt(2500, 8001)  # leaves the prefix within a chunk, computed in two steps
    cold = parallel.engine.generate(longer, OUTPUT_TOKENS, salt="cold")
    parallel.forget()
    parallel.expect_hit(longer, 1024, cold)


@pytest.mark.parametrize("saves", ["parallel", "single"])
def test_engines_of_one_and_of_two_ranks_hit_each_other(single: Rig, parallel: Rig, saves: str) -> None:
    saver, other = (parallel, single) if saves == "parallel" else (single, parallel)
    tokens = prompt(1300, 8010 + len(saves))
    reference = saver.save(tokens)
    assert reference.cached == 0
    other.expect_hit(tokens, 1280, reference)
    other.forget()
    saved = values(saver, tokens, f"saved-by-{saves}")
    before = other.fetched()
    fetched = values(other, tokens, f"fetched-after-{saves}")
    assert other.fetched() - before == 1280 * other.engine.options.tensor_parallel
    assert np.array_equal(saved, fetched)
    other.forget()
    computed = values(other, prompt(1300, 8012), f"control-of-{saves}")
    assert not np.array_equal(saved, computed)


def test_many_requests_of_both_engines_at_once(single: Rig, parallel: Rig) -> None:
    prompts = [prompt(700 + 90 * number, 8020 + number) for number in range(6)]
    references = [(parallel if number % 2 else single).save(tokens) for number, tokens in enumerate(prompts)]
    single.forget()
    parallel.forget()
    futures = [(rig.engine.submit(tokens, OUTPUT_TOKENS)) for tokens in prompts for rig in (single, parallel)]
    answers = [future.result(300) for future in futures]
    for number, (tokens, reference) in enumerate(zip(prompts, references, strict=True)):
        for answer in answers[2 * number : 2 * number + 2]:
            assert answer.cached == len(tokens) // 256 * 256
            assert disagreement(reference, answer) is None


def remove(redis: RedisServer, known: set[str], kind: str, group: int) -> None:
    """One object of that kind and head group which is not among the `known`."""
    name = next(key for key in redis.keys(f"*:h{group}of{RANKS}:{kind}") if key not in known)
    assert redis.ask("DEL", name) == ":1"


def expect_miss_and_repair(rig: Rig, redis: RedisServer, tokens: list[int], reference: Answer) -> None:
    objects = len(redis.keys("*")) + 1
    rig.forget()
    answer = rig.engine.generate(tokens, OUTPUT_TOKENS)
    assert answer.cached < 1280
    assert disagreement(reference, answer) is None
    rig.plane.wait_until(lambda: len(redis.keys("*")) == objects)
    rig.forget()
    rig.expect_hit(tokens, 1280, reference)


@pytest.mark.parametrize("group", range(RANKS))
def test_a_lost_head_group_is_a_miss_for_every_engine_and_is_repaired(
    single: Rig, parallel: Rig, redis: RedisServer, group: int
) -> None:
    known = set(redis.keys("*"))
    tokens = prompt(1300, 8030 + group)
    reference = parallel.save(tokens)
    for rig in (parallel, single):
        remove(redis, known, "mark", group)
        expect_miss_and_repair(rig, redis, tokens, reference)
        # The marker still promises it: one rank's load fails, and with it the request's.
        remove(redis, known, "seg", group)
        failed = rig.plane.metric("shadowserve_fetch_requests_total", result="failed_not_found")
        expect_miss_and_repair(rig, redis, tokens, reference)
        assert rig.plane.metric("shadowserve_fetch_requests_total", result="failed_not_found") == failed + 1


def test_a_data_plane_that_dies_costs_both_ranks_a_recompute(parallel: Rig) -> None:
    tokens = prompt(2400, 8040)
    reference = parallel.save(tokens)
    slow = f"faulty+{parallel.plane.store}&fault.delay_ms=200"
    with parallel.plane.serving(store=slow):
        parallel.forget()
        future = parallel.engine.submit(tokens, OUTPUT_TOKENS)
        parallel.plane.wait_until(lambda: parallel.plane.metric("shadowserve_stage_inflight", stage="network") > 0)
    assert disagreement(reference, future.result(120)) is None
    wait_for_hit(parallel, tokens, 2304, reference)
