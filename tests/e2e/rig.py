"""What scenarios share: an engine with its data plane, prompts, and where things run."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

from compare import disagreement
from dataplane import ROOT, DataPlane
from engine import Answer, Engine, EngineOptions
from make_model import SHAPES

CORES = sorted(os.sched_getaffinity(0))
ENGINE_CORES = CORES[:1] if len(CORES) > 1 else []
PLANE_CORES = CORES[1:2]
LOGS = ROOT / "out" / "test" / "e2e"
MODEL = SHAPES["small"]
OUTPUT_TOKENS = 24


def prompt(length: int, seed: int) -> list[int]:
    """Random tokens: prompts of different seeds share no prefix."""
    generator = random.Random(seed)
    return [generator.randrange(1, MODEL.vocabulary) for _ in range(length)]


@dataclass
class Rig:
    """An engine with its data plane, and what scenarios do with them."""

    engine: Engine
    plane: DataPlane

    def save(self, tokens: list[int], output: int = OUTPUT_TOKENS, salt: str | None = None) -> Answer:
        """Computes the prompt, waits until its chunks are in the store. The reference for later hits."""
        before = self.plane.chunks_settled()
        answer = self.engine.generate(tokens, output, salt=salt)
        self.plane.wait_for_chunks(before + len(tokens) // 256 * self.engine.options.tensor_parallel)
        return answer

    def forget(self) -> None:
        """Empties the engine's own cache and fills its pages with noise: what is right afterwards was
        computed or fetched."""
        end = time.monotonic() + 30
        while not self.engine.reset_local_cache():
            assert time.monotonic() < end, "pages are still held after 30 s"
            time.sleep(0.05)
        self.engine.worker("fill_free_memory_with_noise")

    def fetched(self) -> int:
        return int(self.plane.metric("shadowserve_fetch_tokens_total"))

    def expect_hit(self, tokens: list[int], cached: int, reference: Answer, salt: str | None = None) -> Answer:
        answer = self.engine.generate(tokens, OUTPUT_TOKENS, salt=salt)
        assert answer.cached == cached
        assert disagreement(reference, answer) is None
        return answer


def wait_for_hit(
    rig: Rig, tokens: list[int], cached: int, reference: Answer | None = None, timeout_s: float = 60
) -> None:
    """Until the engine, by itself, finds and stores again what there is to find; right all the while."""
    end = time.monotonic() + timeout_s
    while True:
        rig.forget()
        answer = rig.engine.generate(tokens, len(reference.tokens) if reference else 1)
        assert reference is None or disagreement(reference, answer) is None
        if answer.cached == cached:
            return
        assert time.monotonic() < end, f"no hit within {timeout_s} s"
        time.sleep(0.2)


def make_engine(model: Path, plane: DataPlane | None, name: str, **options: object) -> Engine:
    settings: dict[str, object] = {
        "model": model,
        "data_plane": plane.address if plane else None,
        "connector": {"lookup_timeout_s": 5, "fetch_deadline_s": 20},
        "cores": ENGINE_CORES,
        **options,
    }
    return Engine(EngineOptions(**settings), LOGS / f"{name}.log")  # type: ignore[arg-type]
