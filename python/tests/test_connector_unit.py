"""The contract of each hook, with stand-ins for vLLM's objects and for the control plane."""

from __future__ import annotations

import logging
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeBlockPool, FakeManager, FakeWorker, make_request, reports, step, table
from hypothesis import given, settings
from hypothesis import strategies as st
from shadowserve.config import ConnectorConfig
from shadowserve.fingerprint import Identity
from shadowserve.metadata import ShadowServeMetadata
from shadowserve.model_facts import ModelFacts
from shadowserve.scheduler_half import SchedulerHalf
from shadowserve.worker_half import WorkerHalf

LOGGER = logging.getLogger("shadowserve.test")
FACTS = ModelFacts(layers=8, kv_heads=8, head_dim=128, dtype="bf16", page_tokens=128, page_count=64, world_size=1)


class FakeHasher:
    def fingerprint_files(self, paths: Any, cache_file: str | None = None) -> bytes:
        return b"F" * 32

    def root_key(self, parts: Any) -> bytes:
        return b"R" * 32


class Engine:
    """A scheduler half with its stand-ins and a clock that the test moves."""

    def __init__(self, **config: Any) -> None:
        self.now = 100.0
        self.manager = FakeManager()
        self.pool = FakeBlockPool(FACTS.page_count)
        self.half = SchedulerHalf(
            self.manager,  # type: ignore[arg-type]
            Identity(FakeHasher()),
            ConnectorConfig(data_plane="unix:///x", **config),
            FACTS,
            LOGGER,
            clock=lambda: self.now,
        )
        self.half.bind_block_pool(self.pool)

    def start_load(self, request: Any, end: int, pages: list[int], computed: int = 0) -> int:
        self.half.on_new_request(request)
        self.manager.answers[request.request_id] = end
        matched, asynchronous = self.half.matched_tokens(request, computed)
        assert matched and asynchronous
        self.half.allocated(request, table(pages), matched)
        return matched


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_a_hit_is_asynchronous_and_starts_one_load_although_vllm_calls_twice(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000)
    assert engine.start_load(request, 768, list(range(1, 9))) == 768
    engine.half.allocated(request, table(list(range(1, 9))), 0)
    assert engine.manager.named("begin_load") == [("r", [1, 2, 3, 4, 5, 6, 7, 8], 0, 768)]


def test_a_load_starts_where_the_local_hit_ends(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000)
    assert engine.start_load(request, 768, [1, 2, 3, 4, 5, 6, 7, 8], computed=384) == 384
    assert engine.manager.named("begin_load") == [("r", [1, 2, 3, 4, 5, 6, 7, 8], 384, 384)]


def test_the_manager_learns_the_salt_of_each_request(engine: Engine) -> None:
    engine.half.on_new_request(make_request("plain"))
    engine.half.on_new_request(make_request("salted", cache_salt="täglich"))
    assert [call[-1] for call in engine.manager.named("add_request")] == [b"", "täglich".encode()]


def test_an_answer_that_is_not_there_yet_is_asked_for_again(engine: Engine) -> None:
    request = make_request()
    engine.half.on_new_request(request)
    engine.manager.answers["r"] = None
    assert engine.half.matched_tokens(request, 0) == (None, False)


def test_a_hit_of_nothing_is_never_asynchronous(engine: Engine) -> None:
    request = make_request()
    engine.half.on_new_request(request)
    assert engine.half.matched_tokens(request, 0) == (0, False)
    engine.manager.answers["r"] = 512
    assert engine.half.matched_tokens(request, 512) == (0, False)


@given(prompt=st.integers(1, 5000), end=st.integers(0, 20).map(lambda c: c * 256), page=st.integers(0, 40))
def test_a_hit_leaves_a_token_to_compute_and_ends_on_a_chunk(prompt: int, end: int, page: int) -> None:
    engine = Engine()
    request = make_request(prompt_tokens=prompt)
    engine.half.on_new_request(request)
    engine.manager.answers["r"] = end
    computed = min(page * 128, (prompt - 1) // 128 * 128)
    matched, asynchronous = engine.half.matched_tokens(request, computed)
    assert matched is not None and asynchronous == (matched > 0)
    assert computed + matched < prompt
    assert matched == 0 or (computed + matched) % 256 == 0


def test_a_request_whose_load_failed_is_never_hit_again(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000)
    engine.start_load(request, 768, [1, 2, 3, 4, 5, 6])
    engine.half.worker_reported(reports({"r"}, {"r"}))
    for _ in range(3):
        assert engine.half.matched_tokens(request, 0) == (0, False)


def test_pages_of_a_failed_load_are_held_until_the_manager_releases_them(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000)
    engine.start_load(request, 768, [1, 2, 3, 4, 5, 6])
    engine.manager.quarantine["r"] = [3, 4]
    engine.half.worker_reported(reports({"r"}, {"r"}))
    assert engine.pool.references() == {3: 1, 4: 1}
    engine.half.step_metadata(step())
    assert engine.pool.references() == {3: 1, 4: 1}
    engine.manager.releases = [3, 4]
    engine.half.step_metadata(step())
    assert engine.pool.references() == {}


def test_all_pages_of_a_failed_load_are_held_when_the_manager_cannot_say_which(engine: Engine) -> None:
    engine.start_load(make_request(prompt_tokens=1000), 768, [1, 2, 3, 4, 5, 6])
    engine.manager.broken.add("load_finished")
    engine.half.worker_reported(reports({"r"}, {"r"}))
    assert set(engine.pool.references()) == {1, 2, 3, 4, 5, 6}


def test_a_load_that_cannot_start_is_reported_as_failed_to_the_workers_once(engine: Engine) -> None:
    engine.manager.broken.add("begin_load")
    engine.start_load(make_request(prompt_tokens=1000), 768, [1, 2, 3, 4, 5, 6])
    assert engine.half.step_metadata(step()).failed_loads == ("r",)
    assert engine.half.step_metadata(step()).failed_loads == ()


def test_loads_are_reported_as_failed_when_their_metadata_is_lost(engine: Engine) -> None:
    engine.start_load(make_request(prompt_tokens=1000), 768, [1, 2, 3, 4, 5, 6])
    engine.manager.broken.add("metadata")
    metadata = engine.half.step_metadata(step())
    assert metadata.failed_loads == ("r",) and metadata.payload == b""


def test_an_abort_while_loading_cancels_saves_nothing_and_keeps_the_blocks_with_vllm(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000)
    engine.start_load(request, 768, [1, 2, 3, 4, 5, 6])
    request.num_computed_tokens = 768  # vLLM counts the tokens before they are there
    engine.half.finished(request, [1, 2, 3, 4, 5, 6])
    assert engine.manager.named("cancel_load") == [("r",)]
    assert engine.manager.named("begin_saves") == []
    engine.manager.quarantine["r"] = [6]
    engine.half.worker_reported(reports({"r"}, {"r"}))
    assert engine.pool.references() == {6: 1}


def test_only_computed_chunks_are_saved_and_their_pages_held_before_the_manager_sends(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000)
    engine.half.on_new_request(request)
    request.num_computed_tokens = 700
    request.num_in_flight_tokens = 100
    engine.half.step_metadata(step({"r": 300}, {"r": [1, 2, 3, 4, 5, 6, 7, 8]}))
    assert engine.manager.named("begin_saves") == [("r", 512, [1, 2, 3, 4, 5, 6, 7, 8])]
    assert engine.pool.references() == {1: 1, 2: 1, 3: 1, 4: 1}
    names = [call[0] for call in engine.manager.calls]
    assert names.index("begin_saves") < names.index("flush")


def test_a_local_hit_is_saved_only_when_the_step_that_may_still_compute_it_is_over(engine: Engine) -> None:
    """vLLM lets a request hit pages that another one computes in this very step, or in one in flight."""
    request = make_request(prompt_tokens=1000)
    engine.half.on_new_request(request)
    assert engine.half.matched_tokens(request, 512) == (0, False)
    request.num_computed_tokens = 512
    pages = {"r": [1, 2, 3, 4, 5, 6, 7, 8]}
    engine.half.step_metadata(step({"r": 100}, pages))
    request.num_computed_tokens, request.num_in_flight_tokens = 612, 100
    engine.half.step_metadata(step({"r": 100}, pages))
    assert engine.manager.named("begin_saves") == []
    request.num_computed_tokens = 712
    engine.half.step_metadata(step({"r": 100}, pages))
    assert engine.manager.named("begin_saves") == [("r", 512, pages["r"])]


def test_a_request_that_ends_in_its_first_step_saves_no_local_hit(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000, skip_reading_prefix_cache=True)
    engine.half.on_new_request(request)
    engine.half.matched_tokens(request, 512)
    request.num_computed_tokens, request.num_in_flight_tokens = 612, 100
    engine.half.finished(request, [1, 2, 3, 4, 5, 6, 7, 8])
    assert engine.manager.named("begin_saves") == []


def test_a_chunk_is_offered_once(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000)
    engine.half.on_new_request(request)
    request.num_computed_tokens = 600
    for _ in range(5):
        engine.half.step_metadata(step({"r": 1}, {"r": [1, 2, 3, 4, 5, 6, 7, 8]}))
    assert len(engine.manager.named("begin_saves")) == 1


def test_chunks_computed_in_the_last_step_are_saved_at_the_end(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000)
    engine.half.on_new_request(request)
    request.num_computed_tokens = 1000
    engine.half.finished(request, [1, 2, 3, 4, 5, 6, 7, 8])
    assert engine.manager.named("begin_saves") == [("r", 768, [1, 2, 3, 4, 5, 6, 7, 8])]
    assert engine.manager.named("finish_request") == [("r",)]
    assert set(engine.pool.references()) == {1, 2, 3, 4, 5, 6}


def test_saves_hold_no_more_than_a_quarter_of_the_pages_while_requests_run(engine: Engine) -> None:
    request = make_request(prompt_tokens=7000)
    engine.half.on_new_request(request)
    request.num_computed_tokens = 6900
    pages = list(range(1, 55))
    engine.half.step_metadata(step({"r": 100}, {"r": pages}))
    assert len(engine.pool.references()) == FACTS.page_count // 4
    engine.manager.releases = list(range(1, 17))
    engine.half.step_metadata(step({"r": 100}, {"r": pages}))
    assert set(engine.pool.references()) == set(range(17, 33))


def test_generated_tokens_are_saved_only_when_asked_for() -> None:
    for save_decode, expected in ((False, 256), (True, 512)):
        engine = Engine(save_decode=save_decode)
        request = make_request(prompt_tokens=300)
        engine.half.on_new_request(request)
        request.all_token_ids = list(range(600))
        request.num_tokens = request.num_computed_tokens = 600
        engine.half.finished(request, [1, 2, 3, 4, 5])
        assert engine.manager.named("begin_saves") == [("r", expected, [1, 2, 3, 4, 5])]
        assert bool(engine.manager.named("extend_request")) == save_decode


def test_a_reset_ends_hits_and_saves_of_requests_that_began_before(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000)
    engine.half.on_new_request(request)
    assert engine.half.reset_cache() is True
    engine.manager.answers["r"] = 768
    assert engine.half.matched_tokens(request, 0) == (0, False)
    request.num_computed_tokens = 1000
    engine.half.finished(request, [1, 2, 3, 4, 5, 6, 7, 8])
    assert engine.manager.named("begin_saves") == []
    assert engine.manager.named("new_namespace") == [()]


def test_a_reset_gives_up_loads_in_flight(engine: Engine) -> None:
    engine.start_load(make_request(prompt_tokens=1000), 768, [1, 2, 3, 4, 5, 6])
    engine.half.reset_cache()
    assert engine.manager.named("cancel_load") == [("r",)]


@pytest.mark.parametrize(
    "overrides",
    [{"prompt_embeds": object()}, {"prompt_token_ids": None}, {"resumable": True}, {"prompt_is_token_ids": [True]}],
)
def test_what_cannot_be_named_is_neither_looked_up_nor_saved(engine: Engine, overrides: dict[str, Any]) -> None:
    request = make_request(prompt_tokens=1000, **overrides)
    engine.half.on_new_request(request)
    assert engine.half.matched_tokens(request, 0) == (0, False)
    request.num_computed_tokens = 1000
    engine.half.finished(request, [1, 2, 3, 4, 5, 6, 7, 8])
    assert {call[0] for call in engine.manager.calls} <= {"take_releases"}


def test_a_request_that_skips_the_cache_is_saved_but_not_looked_up(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000, skip_reading_prefix_cache=True)
    engine.half.on_new_request(request)
    engine.manager.answers["r"] = 768
    assert engine.half.matched_tokens(request, 0) == (0, False)
    request.num_computed_tokens = 1000
    engine.half.finished(request, [1, 2, 3, 4, 5, 6, 7, 8])
    assert len(engine.manager.named("begin_saves")) == 1


def test_no_fault_of_the_manager_reaches_the_engine() -> None:
    every = {
        "add_request", "matched_tokens", "begin_load", "cancel_load", "load_finished", "begin_saves", "flush",
        "take_releases", "finish_request", "new_namespace", "metadata", "stats", "close",
    }  # fmt: skip
    for broken in [*({name} for name in every), every]:
        engine = Engine()
        request = make_request(prompt_tokens=1000)
        engine.half.on_new_request(request)
        engine.manager.answers["r"] = 768
        engine.manager.broken = broken
        matched, _ = engine.half.matched_tokens(request, 0)
        engine.half.allocated(request, table([1, 2, 3, 4, 5, 6, 7, 8]), matched or 0)
        assert isinstance(engine.half.step_metadata(step({"r": 10}, {"r": [1, 2]})), ShadowServeMetadata)
        engine.half.worker_reported(reports({"r"} if matched else set(), set()))
        request.num_computed_tokens = 1000
        engine.half.finished(request, [1, 2, 3, 4, 5, 6, 7, 8])
        engine.half.reset_cache()
        engine.half.stats()
        engine.half.close()


def test_an_idle_engine_steps_on_only_briefly_to_give_pages_back(engine: Engine) -> None:
    request = make_request(prompt_tokens=1000)
    engine.half.on_new_request(request)
    request.num_computed_tokens = 1000
    engine.half.finished(request, [1, 2, 3, 4, 5, 6, 7, 8])
    assert engine.half.wants_steps()
    engine.now += 10
    assert not engine.half.wants_steps()
    engine.manager.releases = [1, 2, 3, 4, 5, 6]
    assert not engine.half.wants_steps()
    assert engine.pool.references() == {}


def test_a_release_of_pages_that_are_not_held_is_ignored(engine: Engine) -> None:
    engine.manager.releases = [7]
    engine.half.step_metadata(step())
    assert engine.pool.references() == {}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_page_reference_is_given_back(data: st.DataObject) -> None:
    """Random lives of requests: afterwards the pool holds nothing of ours, and nothing is freed twice."""
    engine = Engine()
    held: list[int] = []
    for number in range(data.draw(st.integers(1, 6))):
        request = make_request(f"r{number}", prompt_tokens=data.draw(st.integers(1, 2000)))
        pages = list(range(1, 1 + (request.num_tokens + 127) // 128))
        engine.half.on_new_request(request)
        engine.manager.answers[request.request_id] = 256 * data.draw(st.integers(0, 8))
        matched, _ = engine.half.matched_tokens(request, 0)
        engine.half.allocated(request, table(pages), matched or 0)
        engine.half.step_metadata(step())
        if matched:
            failed = data.draw(st.booleans())
            engine.manager.quarantine[request.request_id] = pages[:2] if failed else []
            if data.draw(st.booleans()):
                engine.half.finished(request, pages)
            engine.half.worker_reported(reports({request.request_id}, {request.request_id} if failed else set()))
        request.num_computed_tokens = data.draw(st.integers(0, request.num_tokens))
        engine.half.step_metadata(step({request.request_id: 1}, {request.request_id: pages}))
        engine.half.finished(request, pages)
        held = [page for page, count in engine.pool.references().items() for _ in range(count)]
        if data.draw(st.booleans()):
            engine.manager.releases = held
    engine.half.step_metadata(step())
    engine.manager.releases = [page for page, count in engine.pool.references().items() for _ in range(count)]
    engine.half.step_metadata(step())
    assert engine.pool.references() == {}


# --- worker half ------------------------------------------------------------------------------------


def test_the_worker_waits_only_in_a_step_without_tokens_and_with_a_load_in_flight() -> None:
    fake = FakeWorker()
    half = WorkerHalf(fake, LOGGER)  # type: ignore[arg-type]
    for tokens, pending, expected in ((0, 1, 1000), (0, 0, 0), (5, 1, 0)):
        fake.loads_pending = pending
        half.begin_step(ShadowServeMetadata(b"m", tokens))
        half.results()
        assert fake.waits[-1] == expected
    assert fake.steps == [b"m"] * 3


def test_failed_loads_are_reported_as_received_and_as_failed() -> None:
    fake = FakeWorker()
    fake.results = [(["a"], ["b"])]
    half = WorkerHalf(fake, LOGGER)  # type: ignore[arg-type]
    assert half.results() == ({"a", "b"}, {"b"})
    assert half.results() == (set(), set())


def test_loads_that_never_started_are_reported_once_even_if_the_worker_is_broken() -> None:
    fake = FakeWorker()
    fake.broken = True
    half = WorkerHalf(fake, LOGGER)  # type: ignore[arg-type]
    half.begin_step(ShadowServeMetadata(b"", 0, ("r",)))
    assert half.results() == ({"r"}, {"r"})
    assert half.results() == (set(), set())


def test_metadata_survives_the_way_to_the_workers() -> None:
    metadata = ShadowServeMetadata(b"\0x", 3, ("a",))
    assert pickle.loads(pickle.dumps(metadata)) == metadata


def test_faults_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    engine.manager.broken.add("take_releases")
    with caplog.at_level(logging.ERROR):
        for _ in range(10):
            engine.half.on_new_request(make_request())
        assert len(caplog.records) == 1
        engine.now += 61
        engine.half.on_new_request(SimpleNamespace(request_id="x"))
        assert len(caplog.records) == 2
