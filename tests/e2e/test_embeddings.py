"""Prompts given as embeddings: nothing names their KV, so they neither hit nor are saved."""

from __future__ import annotations

import pytest
from compare import disagreement
from rig import OUTPUT_TOKENS, Rig, prompt

pytestmark = pytest.mark.engine


def test_embeddings_share_with_nobody_by_accident(fence: Rig) -> None:
    first, second = prompt(600, 100), prompt(600, 101)
    reference = fence.save(first)
    lookups = fence.plane.metric("shadowserve_lookups_total")
    settled = fence.plane.chunks_settled()
    answers = []
    for tokens in (first, second, first):
        fence.forget()
        answers.append(fence.engine.generate(tokens, OUTPUT_TOKENS, embedded=True))
    # The control: the embeddings do mean what the tokens mean, so a hit would have been possible.
    assert disagreement(reference, answers[0]) is None
    assert disagreement(answers[0], answers[1]) is not None
    assert disagreement(answers[0], answers[2]) is None
    assert [answer.cached for answer in answers] == [0, 0, 0]
    assert fence.plane.metric("shadowserve_lookups_total") == lookups
    fence.forget()
    assert fence.engine.generate(second, OUTPUT_TOKENS).cached == 0
    fence.plane.wait_for_chunks(settled + 2)
    assert fence.plane.chunks_settled() == settled + 2  # the last prompt's alone
    fence.forget()
    fence.expect_hit(first, 512, reference)
