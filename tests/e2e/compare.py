"""Is an answer the same as the reference's, up to the noise of bf16 arithmetic?

Batching and chunking change the order of sums, so log-probabilities differ a little and greedy tokens may
part where the reference itself hardly prefers one. So, step by step: the log-probabilities of the
reference's best tokens must agree within a tolerance; tokens must be equal, or the two must be so close in
the reference that the noise explains the other choice. There the comparison ends: what follows answers
another text.
"""

from __future__ import annotations

from dataclasses import replace

from engine import Answer

# Repeated runs with other batch shapes differ by up to 0.05 on the test model, damaged pages by 1 and more.
LOGPROB_TOLERANCE = 0.25


def disagreement(reference: Answer, answer: Answer, tolerance: float = LOGPROB_TOLERANCE) -> str | None:
    """None when they agree, else where and how they part."""
    if len(reference.tokens) != len(answer.tokens):
        return f"{len(answer.tokens)} tokens, the reference has {len(reference.tokens)}"
    for step, (wanted, got) in enumerate(zip(reference.tokens, answer.tokens, strict=True)):
        ours, theirs = reference.logprobs[step], answer.logprobs[step]
        for token in sorted(ours, key=lambda candidate: -ours[candidate])[:2]:
            if abs(ours[token] - theirs.get(token, float("-inf"))) > tolerance:
                return f"step {step}: token {token} has {theirs.get(token)}, the reference {ours[token]:.2f}"
        if wanted != got:
            margin = ours[wanted] - ours.get(got, float("-inf"))
            return None if margin <= 2 * tolerance else f"step {step}: token {got}, not {wanted} (margin {margin:.2f})"
    return None


def head(answer: Answer, tokens: int) -> Answer:
    """As if no more had been asked for."""
    return replace(
        answer, tokens=answer.tokens[:tokens], logprobs=answer.logprobs[:tokens], times=answer.times[:tokens]
    )


def distance(reference: Answer, answer: Answer) -> float:
    """Largest difference of a log-probability of the reference's two best tokens, as far as both texts are
    the same; infinite when the other does not list the token."""
    worst = 0.0
    for step in range(min(same_steps(reference, answer) + 1, len(reference.tokens))):
        ours, theirs = reference.logprobs[step], answer.logprobs[step]
        for token in sorted(ours, key=lambda candidate: -ours[candidate])[:2]:
            worst = max(worst, abs(ours[token] - theirs.get(token, float("-inf"))))
    return worst


def same_steps(reference: Answer, answer: Answer) -> int:
    """Leading tokens that are equal."""
    count = 0
    for wanted, got in zip(reference.tokens, answer.tokens, strict=False):
        if wanted != got:
            break
        count += 1
    return count
