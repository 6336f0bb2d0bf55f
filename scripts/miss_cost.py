#!/usr/bin/env python3
"""What a prompt that nobody has stored pays for the connector: time to first token beside plain vLLM.

Two engines on one core, one plain, one with ShadowServe; the same prompts, in turn. Three cases: the data
plane answers "nothing stored"; it is away (killed); and a prompt too short to ask. Prints milliseconds
added, median and 95 % interval; writes out/bench/miss_cost.json.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "scripts"), str(ROOT / "tests" / "e2e")]

from dataplane import DataPlane  # noqa: E402
from engine import Engine, EngineOptions  # noqa: E402
from interference import median_with_interval  # noqa: E402
from make_model import SHAPES, write_model  # noqa: E402
from rig import ENGINE_CORES, PLANE_CORES  # noqa: E402

OUT = ROOT / "out" / "bench"
SHAPE = SHAPES["small"]
IDLE_S = 1.3


def added_ms(plain: Engine, ours: Engine, tokens: int, pairs: int, generator: random.Random) -> list[float]:
    """Time to first token with ShadowServe less plain vLLM's, the order of the two changing."""
    differences = []
    for number in range(pairs):
        prompt = [generator.randrange(1, SHAPE.vocabulary) for _ in range(tokens)]
        order = (plain, ours) if number % 2 else (ours, plain)
        seconds = {}
        for engine in order:
            seconds[engine] = engine.generate(prompt, 1).first_token_s
            # vLLM's processes spin for a second after a request: the other engine needs the core to itself.
            time.sleep(IDLE_S)
        differences.append((seconds[ours] - seconds[plain]) * 1e3)
    return differences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60, help="prompts of each case (default 60)")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    generator = random.Random(1)
    cases: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="shadowserve-miss-") as folder:
        model = Path(folder) / "model"
        write_model(model, SHAPE)
        plane = DataPlane(Path(folder) / "plane", cores=PLANE_CORES)
        plane.start()
        print("miss_cost: starting two engines (tens of seconds each) ...", flush=True)
        try:
            with (
                Engine(EngineOptions(model, pages=128, cores=ENGINE_CORES), OUT / "plain.log") as plain,
                Engine(EngineOptions(model, plane.address, pages=128, cores=ENGINE_CORES), OUT / "ours.log") as ours,
            ):
                for engine in (plain, ours):
                    engine.generate([1] * 600, 2)
                cases["miss"] = added_ms(plain, ours, 600, arguments.pairs, generator)
                cases["too short to ask"] = added_ms(plain, ours, 200, arguments.pairs, generator)
                plane.kill()
                ours.generate([2] * 600, 1)
                cases["data plane away"] = added_ms(plain, ours, 600, arguments.pairs, generator)
        finally:
            plane.close()
    report = {}
    for name, differences in cases.items():
        median, interval = median_with_interval(differences)
        report[name] = {"added_ms": median, "ci95": list(interval), "pairs": len(differences)}
        print(f"  {name:20} {median:+.2f} ms ({interval[0]:.2f} .. {interval[1]:.2f})")
    (OUT / "miss_cost.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
