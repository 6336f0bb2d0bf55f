"""Two engines of different page size and hash seed on one data plane and one store."""

from __future__ import annotations

import pytest
from compare import disagreement
from engine import Engine
from rig import MODEL, OUTPUT_TOKENS, Rig, prompt

pytestmark = pytest.mark.engine


def digests(engine: Engine, tokens: list[int], name: str) -> list[str]:
    """Of the prompt's whole chunks, read from the pages of a running request."""
    with engine.running(tokens, name):
        found = engine.worker("canonical_digests", name, len(tokens) // 256 * 256, MODEL.head_dim)
    return list(found)


def test_pages_of_128_and_of_32_tokens_share_one_cache(rig: Rig, other_rig: Rig) -> None:
    tokens = prompt(1300, 20)
    reference = rig.save(tokens)
    other_rig.expect_hit(tokens, 1280, reference)
    tokens = prompt(1300, 21)
    reference = other_rig.save(tokens)
    rig.expect_hit(tokens, 1280, reference)


def test_fetched_pages_equal_the_saved_ones_byte_for_byte(rig: Rig, other_rig: Rig) -> None:
    tokens = prompt(1300, 22)
    rig.save(tokens)
    saved = digests(rig.engine, tokens, "saved")
    before = other_rig.fetched()
    fetched = digests(other_rig.engine, tokens, "fetched")
    assert other_rig.fetched() - before == 1280
    assert len(saved) == 5
    assert fetched == saved
    other_rig.forget()
    recomputed = digests(other_rig.engine, prompt(1300, 23), "control")
    assert recomputed != saved


def test_preempted_requests_answer_as_if_they_ran_alone(rig: Rig, other_rig: Rig) -> None:
    """96 pages of 32 tokens hold three of these requests to their end, not five."""
    prompts = [prompt(620, 30 + number) for number in range(5)]
    references = [rig.engine.generate(tokens, 200) for tokens in prompts]
    preempted = other_rig.engine.preemptions()
    futures = [other_rig.engine.submit(tokens, 200) for tokens in prompts]
    answers = [future.result(300) for future in futures]
    assert other_rig.engine.preemptions() > preempted
    assert [disagreement(*pair) for pair in zip(references, answers, strict=True)] == [None] * 5


def test_both_engines_fetch_at_the_same_time(rig: Rig, other_rig: Rig) -> None:
    prompts = [prompt(1100, 40 + number) for number in range(4)]
    references = [rig.save(tokens) for tokens in prompts]
    rig.forget()
    futures = [
        (reference, one.engine.submit(tokens, OUTPUT_TOKENS))
        for tokens, reference in zip(prompts, references, strict=True)
        for one in (rig, other_rig)
    ]
    answers = [future.result(300) for _, future in futures]
    for (reference, _), answer in zip(futures, answers, strict=True):
        assert disagreement(reference, answer) is None
    assert [answer.cached for answer in answers[0::2]] == [1024] * 4
    assert 1024 in [answer.cached for answer in answers[1::2]]  # its small memory does not take all at once


def test_prompts_that_are_scheduled_together_store_nothing_before_it_is_computed(rig: Rig) -> None:
    """All but the first hit pages, in the engine's own cache, that the first one only computes in that step."""
    tokens = prompt(1100, 64)
    reference = rig.save(tokens, salt="reference")
    before = rig.plane.chunks_settled()
    futures = [rig.engine.submit(tokens, OUTPUT_TOKENS) for _ in range(4)]
    assert [disagreement(reference, future.result(120)) for future in futures] == [None] * 4
    rig.plane.wait_for_chunks(before + 4)
    rig.forget()
    rig.expect_hit(tokens, 1024, reference)
