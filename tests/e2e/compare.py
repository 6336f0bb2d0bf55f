"""Is an answer the same as the reference's, up to the noise of bf16 arithmetic?

Batching and chunking change the order of sums, so log-probabilities differ a little and greedy tokens may
part where the reference itself hardly prefers one. So: tokens must agree until the reference's own margin
between its two best is within the noise, and up to there log-probabilities must agree within a tolerance.
"""

from __future__ import annotations

from engine import Answer

# bf16 on random weights of real scale (measured over repeated runs with other batch shapes).
LOGPROB_TOLERANCE = 0.35


def disagreement(reference: Answer, answer: Answer, tolerance: float = LOGPROB_TOLERANCE) -> str | None:
    """None when they agree, else where and how they part."""
    if len(reference.tokens) != len(answer.tokens):
        return f"{len(answer.tokens)} tokens, the reference has {len(reference.tokens)}"
    for step, (wanted, got) in enumerate(zip(reference.tokens, answer.tokens, strict=True)):
        margin = _margin(reference.logprobs[step])
        if wanted != got:
            if margin <= 2 * tolerance:
                return None
            return f"step {step}: token {got}, the reference has {wanted} by a margin of {margin:.2f}"
        difference = abs(reference.logprobs[step][wanted] - answer.logprobs[step][wanted])
        if difference > tolerance:
            return f"step {step}: log-probabilities differ by {difference:.2f}"
    return None


def same_steps(reference: Answer, answer: Answer) -> int:
    """Leading tokens that are equal."""
    count = 0
    for wanted, got in zip(reference.tokens, answer.tokens, strict=False):
        if wanted != got:
            break
        count += 1
    return count


def _margin(logprobs: dict[int, float]) -> float:
    best = sorted(logprobs.values(), reverse=True)
    return best[0] - best[1]
