#!/usr/bin/env python3
"""What a prompt that nobody has stored pays for the connector: time to first token beside plain vLLM.

Two engines on one core, one plain, one with ShadowServe; the same prompts, in turn. Three cases: the data
plane answers "nothing stored"; it is away (killed); and a prompt too short to ask. Two processes differ by
more than a miss costs, so two cases stay in the engine with ShadowServe: prompts that ask beside prompts
whose request says `skip_reading_prefix_cache`, which is what asking and waiting for the answer adds, with an
empty store and with a Redis server that is not there (its circuit breaker is open). Prints milliseconds
added, median and 95 % interval, and the share of the time to first token; writes out/bench/miss_cost.json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "scripts"), str(ROOT / "tests" / "e2e")]

from dataplane import DataPlane, free_port  # noqa: E402
from engine import Engine, EngineOptions  # noqa: E402
from interference import median_with_interval  # noqa: E402
from make_model import SHAPES, write_model  # noqa: E402
from rig import ENGINE_CORES, PLANE_CORES  # noqa: E402

OUT = ROOT / "out" / "bench"
SHAPE = SHAPES["small"]
TOKENS = 300  # one chunk to ask for; what is computed besides is noise here
# In one engine: its pairs cost no idle time, and the figure sought is small.
ASKING_PAIRS = 300
# vLLM's processes spin for a second after a request: the other engine needs the core to itself.
IDLE_S = 1.3


@dataclass(frozen=True)
class Way:
    """How a prompt is asked."""

    engine: Engine
    ask_store: bool = True
    idle_s: float = 0.0  # afterwards

    def first_token_s(self, prompt: list[int]) -> float:
        seconds = self.engine.generate(prompt, 1, skip_cache=not self.ask_store).first_token_s
        time.sleep(self.idle_s)
        return seconds


def random_prompt(tokens: int, generator: random.Random) -> list[int]:
    return [generator.randrange(1, SHAPE.vocabulary) for _ in range(tokens)]


def compare(base: Way, ours: Way, tokens: int, pairs: int, generator: random.Random) -> list[tuple[float, float]]:
    """Times to first token in milliseconds, the base's way and ours, the order of the two changing."""
    times = []
    for number in range(pairs):
        # The same prompt in two engines; in one engine it would be found in its own cache.
        prompts = [random_prompt(tokens, generator)] * 2
        if base.engine is ours.engine:
            prompts[1] = random_prompt(tokens, generator)
        order = (base, ours) if number % 2 else (ours, base)
        seconds = {way: way.first_token_s(prompt) for way, prompt in zip(order, prompts, strict=True)}
        times.append((seconds[base] * 1e3, seconds[ours] * 1e3))
    return times


def beside_plain(
    model: Path, ours: Engine, plane: DataPlane, pairs: int, generator: random.Random
) -> dict[str, list[tuple[float, float]]]:
    """The cases of two engines; the data plane is dead afterwards."""
    print("miss_cost: starting the plain engine ...", flush=True)
    cases = {}
    with Engine(EngineOptions(model, pages=128, cores=ENGINE_CORES), OUT / "plain.log") as plain:
        plain.generate([1] * TOKENS, 2)
        time.sleep(IDLE_S)
        base, way = Way(plain, idle_s=IDLE_S), Way(ours, idle_s=IDLE_S)
        cases["miss"] = compare(base, way, TOKENS, pairs, generator)
        cases["too short to ask"] = compare(base, way, 200, pairs, generator)
        plane.kill()
        ours.generate([2] * TOKENS, 1)
        cases["data plane away"] = compare(base, way, TOKENS, pairs, generator)
    return cases


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60, help="pairs of each case between two engines (default 60)")
    parser.add_argument("--one-engine", action="store_true", help="only the cases within one engine")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    generator = random.Random(1)
    cases: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="shadowserve-miss-") as folder:
        model = Path(folder) / "model"
        write_model(model, SHAPE)
        plane = DataPlane(Path(folder) / "plane", cores=PLANE_CORES)
        plane.start()
        print("miss_cost: starting the engine with ShadowServe (tens of seconds) ...", flush=True)
        try:
            with Engine(EngineOptions(model, plane.address, pages=128, cores=ENGINE_CORES), OUT / "ours.log") as ours:
                ours.generate([1] * TOKENS, 2)
                silent = Way(ours, ask_store=False)
                cases["asking"] = compare(silent, Way(ours), TOKENS, ASKING_PAIRS, generator)
                with plane.serving(store=f"redis://127.0.0.1:{free_port()}"):
                    cases["asking, store away"] = compare(silent, Way(ours), TOKENS, ASKING_PAIRS, generator)
                if not arguments.one_engine:
                    cases |= beside_plain(model, ours, plane, arguments.pairs, generator)
        finally:
            plane.close()
    report = {}
    for name, times in cases.items():
        median, interval = median_with_interval([ours_ms - base_ms for base_ms, ours_ms in times])
        whole = statistics.median(base_ms for base_ms, _ in times)
        report[name] = {"added_ms": median, "ci95": list(interval), "base_ms": whole, "pairs": len(times)}
        share = f"{100 * median / whole:+.2f} % of {whole:.0f} ms"
        print(f"  {name:20} {median:+.2f} ms ({interval[0]:.2f} .. {interval[1]:.2f}), {share}")
    (OUT / "miss_cost.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
