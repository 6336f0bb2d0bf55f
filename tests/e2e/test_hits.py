"""One engine, its own cache emptied between save and hit: everything that is right came from the store."""

from __future__ import annotations

import time

import pytest
from compare import disagreement, same_steps
from rig import OUTPUT_TOKENS, Rig, prompt

pytestmark = pytest.mark.engine


def test_damaged_pages_change_the_answer(rig: Rig) -> None:
    """The control of all other tests: on this model a wrong page shows, wherever it is."""
    tokens = prompt(1400, 1)
    reference = rig.engine.generate(tokens, OUTPUT_TOKENS)
    for position in (0, 4, 9):
        with rig.engine.running(tokens, f"probe{position}"):
            pages = rig.engine.worker("request_pages", f"probe{position}")
        rig.engine.worker("damage", [pages[position]])
        assert disagreement(reference, rig.engine.generate(tokens, OUTPUT_TOKENS)) is not None
        assert rig.engine.reset_local_cache()
        assert disagreement(reference, rig.engine.generate(tokens, OUTPUT_TOKENS, skip_cache=True)) is None


@pytest.mark.parametrize(("length", "cached"), [(1025, 1024), (1300, 1280), (1024, 768), (513, 512), (255, 0)])
def test_a_full_hit_brings_every_whole_chunk_but_leaves_a_token(rig: Rig, length: int, cached: int) -> None:
    tokens = prompt(length, 100 + length)
    reference = rig.save(tokens)
    assert reference.cached == 0
    rig.forget()
    before = rig.fetched()
    rig.expect_hit(tokens, cached, reference)
    assert rig.fetched() - before == cached


@pytest.mark.parametrize(("shared", "cached"), [(768, 768), (700, 512), (255, 0)])
def test_a_prompt_that_leaves_the_shared_prefix_hits_its_whole_chunks(rig: Rig, shared: int, cached: int) -> None:
    first = prompt(1300, 200 + shared)
    second = first[:shared] + prompt(400, 300 + shared)
    reference = rig.engine.generate(second, OUTPUT_TOKENS, salt="reference")
    rig.save(first)
    rig.forget()
    rig.expect_hit(second, cached, reference)


def test_a_local_hit_in_front_is_continued_from_the_store(rig: Rig) -> None:
    tokens = prompt(1400, 2)
    reference = rig.save(tokens)
    rig.forget()
    rig.engine.generate(tokens[:400], 1)  # leaves three pages, half a chunk beyond the first
    before = rig.fetched()
    rig.expect_hit(tokens, 1280, reference)
    assert rig.fetched() - before == 1280 - 384


def test_prefill_in_several_steps_is_saved_and_continues_after_a_hit(rig: Rig) -> None:
    tokens = prompt(5200, 3)
    reference = rig.save(tokens)
    rig.forget()
    rig.expect_hit(tokens, 5120, reference)
    longer = tokens[:2100] + prompt(3000, 4)
    cold = rig.engine.generate(longer, OUTPUT_TOKENS, salt="cold")
    rig.forget()
    rig.expect_hit(longer, 2048, cold)


def test_sixteen_requests_at_once_all_hit(rig: Rig) -> None:
    prompts = [prompt(700 + 40 * number, 400 + number) for number in range(16)]
    references = [rig.save(tokens) for tokens in prompts]
    rig.forget()
    futures = [rig.engine.submit(tokens, OUTPUT_TOKENS) for tokens in prompts]
    answers = [future.result(300) for future in futures]
    assert [answer.cached for answer in answers] == [len(tokens) // 256 * 256 for tokens in prompts]
    assert [disagreement(*pair) for pair in zip(references, answers, strict=True)] == [None] * 16


def test_many_aborts_during_fetches_leave_no_page_and_no_request_behind(rig: Rig) -> None:
    tokens = prompt(3000, 5)
    reference = rig.save(tokens)
    for attempt in range(12):
        rig.forget()
        future = rig.engine.submit(tokens, 8, request_id=f"abort{attempt}")
        time.sleep(0.003 * attempt)  # spreads the aborts over lookup, load and prefill
        rig.engine.abort(f"abort{attempt}")
        future.exception(60)
    rig.forget()  # fails while any page is held
    rig.expect_hit(tokens, 2816, reference)
    slow = f"faulty+{rig.plane.store}&fault.delay_ms=500"
    with rig.plane.serving(store=slow):  # here the abort is surely in the middle of the fetch
        rig.forget()
        future = rig.engine.submit(tokens, 8, request_id="abort-slow")
        rig.plane.wait_until(lambda: rig.plane.metric("shadowserve_stage_inflight", stage="network") > 0)
        rig.engine.abort("abort-slow")
        future.exception(60)
        rig.plane.wait_until(lambda: rig.plane.metric("shadowserve_fetch_requests_total", result="cancelled") == 1)
    rig.forget()
    rig.expect_hit(tokens, 2816, reference)


def test_salts_separate_and_the_same_salt_shares(rig: Rig) -> None:
    tokens = prompt(1100, 6)
    reference = rig.save(tokens, salt="tenant a")
    rig.forget()
    for salt in (None, "tenant b"):
        assert rig.engine.generate(tokens, OUTPUT_TOKENS, salt=salt).cached == 0
    rig.expect_hit(tokens, 1024, reference, salt="tenant a")


def test_the_comparison_tells_two_prompts_apart(rig: Rig) -> None:
    first = rig.engine.generate(prompt(600, 8), OUTPUT_TOKENS)
    second = rig.engine.generate(prompt(600, 9), OUTPUT_TOKENS)
    assert disagreement(first, second) is not None
    assert same_steps(first, second) < OUTPUT_TOKENS
