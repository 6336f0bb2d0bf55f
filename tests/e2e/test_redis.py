"""The same engine over a Redis server: hits, and plain vLLM whenever the server is not what it should be."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compare import disagreement
from redis_server import RedisCluster, RedisServer, skip_without_redis
from rig import OUTPUT_TOKENS, Rig, prompt, wait_for_hit

pytestmark = pytest.mark.engine


@pytest.fixture
def redis_rig(rig: Rig, redis: RedisServer) -> Iterator[Rig]:
    """The session's engine and data plane, for one test on the Redis server."""
    with rig.plane.serving(store=redis.url):
        yield rig


def expect_plain(rig: Rig, tokens: list[int], reference: object, seconds: float) -> None:
    start = time.monotonic()
    answer = rig.engine.generate(tokens, OUTPUT_TOKENS)
    assert time.monotonic() - start < seconds
    assert answer.cached == 0
    assert disagreement(reference, answer) is None  # type: ignore[arg-type]
    rig.forget()


def test_hits_come_from_redis_and_its_absence_costs_a_recompute(redis_rig: Rig, redis: RedisServer) -> None:
    tokens = prompt(1300, 7000)
    reference = redis_rig.save(tokens)
    assert int(redis.ask("DBSIZE")[1:]) > 0
    redis_rig.forget()
    redis_rig.expect_hit(tokens, 1280, reference)
    redis_rig.forget()

    redis.signal(signal.SIGSTOP)
    try:
        expect_plain(redis_rig, tokens, reference, 20)
    finally:
        redis.signal(signal.SIGCONT)
    end = time.monotonic() + 20
    while redis_rig.engine.generate(tokens, OUTPUT_TOKENS).cached != 1280:
        assert time.monotonic() < end, "no hits although the server is back"
        redis_rig.forget()
    redis_rig.forget()

    redis.kill()
    expect_plain(redis_rig, tokens, reference, 20)
    redis.start()
    time.sleep(1)  # longer than the longest back-off that so short an absence can lead to
    again = redis_rig.save(tokens)  # it came back empty
    assert again.cached == 0
    redis_rig.forget()
    redis_rig.expect_hit(tokens, 1280, reference)


def test_objects_that_the_server_dropped_are_misses_and_are_stored_again(redis_rig: Rig, redis: RedisServer) -> None:
    assert redis.ask("FLUSHALL") == "+OK"
    tokens = prompt(1300, 7001)
    reference = redis_rig.save(tokens)
    redis_rig.forget()
    objects = redis.ask("DBSIZE")
    assert redis.ask("FLUSHALL") == "+OK"
    expect_plain(redis_rig, tokens, reference, 20)
    redis_rig.plane.wait_until(lambda: redis.ask("DBSIZE") == objects)
    delete = "for _,k in ipairs(redis.call('KEYS','*:{kind}')) do redis.call('DEL',k) end return 1"
    assert redis.ask("EVAL", f'"{delete.format(kind="mark")}"', "0") == ":1"
    expect_plain(redis_rig, tokens, reference, 20)
    redis_rig.plane.wait_until(lambda: redis.ask("DBSIZE") == objects)
    redis_rig.expect_hit(tokens, 1280, reference)
    redis_rig.forget()
    # Markers without their segments: the lookup says yes, the load fails, the prompt is computed.
    assert redis.ask("EVAL", f'"{delete.format(kind="seg")}"', "0") == ":1"
    answer = redis_rig.engine.generate(tokens, OUTPUT_TOKENS)
    assert disagreement(reference, answer) is None
    assert redis_rig.plane.metric("shadowserve_fetch_requests_total", result="failed_not_found") > 0
    redis_rig.forget()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    skip_without_redis()
    made = RedisCluster(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def test_a_clusters_master_dies_during_fetches_and_hits_return(rig: Rig, cluster: RedisCluster) -> None:
    with rig.plane.serving(store=cluster.url):
        prompts = [prompt(1100 + 100 * number, 7010 + number) for number in range(4)]
        references = [rig.save(tokens) for tokens in prompts]
        for server in cluster.servers[: cluster.masters]:
            assert int(server.ask("DBSIZE")[1:]) > 0  # every master holds a part
            assert server.ask("WAIT", "1", "5000") == ":1"
        rig.forget()
        futures = [rig.engine.submit(tokens, OUTPUT_TOKENS) for tokens in prompts]
        cluster.servers[0].kill()
        for future, reference in zip(futures, references, strict=True):
            assert disagreement(reference, future.result(120)) is None
        start = time.monotonic()
        for tokens, reference in zip(prompts, references, strict=True):
            wait_for_hit(rig, tokens, len(tokens) // 256 * 256, reference)
        assert time.monotonic() - start < 40, "some seconds of fail-over, not a minute"
        assert "role:master" in cluster.servers[cluster.masters].lines("INFO", "replication")
