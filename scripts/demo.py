#!/usr/bin/env python3
"""The main job on a real vLLM (`make demo`): cold prompt, hit in a new engine process, interference.

The engine is pinned to one core, the data plane to another. Both emulate the real places: a GPU host and a
SmartNIC or isolated cores. Writes out/demo/report.json and out/demo/report.png.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "scripts"), str(ROOT / "tests" / "e2e")]

from compare import disagreement  # noqa: E402
from dataplane import DataPlane  # noqa: E402
from engine import Answer, Engine, EngineOptions  # noqa: E402
from make_model import SHAPES, write_model  # noqa: E402
from rig import ENGINE_CORES, PLANE_CORES  # noqa: E402

OUT = ROOT / "out" / "demo"
SHAPE = SHAPES["demo"]
PROMPT_TOKENS = 6000
OUTPUT_TOKENS = 16
ARRIVAL_TOKENS = 4 * 256 + 1
REMOTE_ARRIVALS = 16  # as many local ones beside them, in ABBA order
WINDOW = 12  # decoded tokens that an arrival is given
WARM_UP_STEPS = 30


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def prompt(length: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(1, SHAPE.vocabulary) for _ in range(length)]


def start_engine(model: Path, plane: DataPlane, name: str) -> Engine:
    say(f"starting {name} (tens of seconds) ...")
    options = EngineOptions(model=model, data_plane=plane.address, pages=256, cores=ENGINE_CORES)
    return Engine(options, OUT / f"{name}.log")


def gaps_after(decoder: Answer, step: int) -> float:
    """Mean inter-token time of the window after a step."""
    return (decoder.times[step + WINDOW] - decoder.times[step]) / WINDOW


class Interference:
    """Decodes while arrivals come whose prefix is fetched (remote) or in the engine's own cache (local)."""

    def __init__(self, engine: Engine, plane: DataPlane, remote: list[list[int]], local: list[int]) -> None:
        self._engine = engine
        self._plane = plane
        self._local = local
        order: list[tuple[str, list[int]]] = []
        for first, second in zip(remote[::2], remote[1::2], strict=True):
            order += [("remote", first), ("local", local), ("local", local), ("remote", second)]
        self._order = order
        self.windows: dict[str, list[float]] = {"local": [], "remote": []}
        self.alone: list[float] = []
        self.wire_bytes = 0.0
        self.kv_bytes = 0.0
        self.seconds = 0.0

    def run(self) -> None:
        self._engine.generate(self._local, 1)  # now in the engine's own cache
        before = [self._plane.metric(f"shadowserve_{kind}_bytes_total", direction="in") for kind in ("wire", "kv")]
        steps = [WARM_UP_STEPS + WINDOW * number for number in range(len(self._order))]
        reached = threading.Condition()
        progress = 0

        def on_tokens(count: int) -> None:
            nonlocal progress
            with reached:
                progress = count
                reached.notify_all()

        total = WARM_UP_STEPS + WINDOW * (len(self._order) + 2)
        start = time.monotonic()
        decoders = [self._engine.submit(prompt(64, 900 + n), total) for n in range(1)]
        decoders.append(self._engine.submit(prompt(64, 950), total, on_tokens=on_tokens))
        arrivals, at = [], []
        for step, (_, tokens) in zip(steps, self._order, strict=True):
            with reached:
                end = time.monotonic() + 120
                while progress < step and time.monotonic() < end:
                    reached.wait(1)
                if progress < step:
                    raise TimeoutError("the decoding requests stand still")
                at.append(progress)
            arrivals.append(self._engine.submit(tokens, 1))
        answers = [decoder.result(300) for decoder in decoders]
        self.seconds = time.monotonic() - start
        cached = [arrival.result(60).cached for arrival in arrivals]
        if min(cached) < ARRIVAL_TOKENS - 1:
            raise RuntimeError(f"an arrival did not hit: {cached}")
        main = answers[1]
        self.alone = [later - earlier for earlier, later in zip(main.times[5:25], main.times[6:26], strict=True)]
        for step, (kind, _) in zip(at, self._order, strict=True):
            if step + WINDOW < len(main.times):
                self.windows[kind].append(gaps_after(main, step))
        after = [self._plane.metric(f"shadowserve_{kind}_bytes_total", direction="in") for kind in ("wire", "kv")]
        self.wire_bytes, self.kv_bytes = (b - a for a, b in zip(before, after, strict=True))

    def ratio(self) -> tuple[float, tuple[float, float]]:
        """Median of the paired ratios, with the 95 % bootstrap interval of that median."""
        pairs = list(zip(self.windows["remote"], self.windows["local"], strict=False))
        ratios = [remote / local for remote, local in pairs]
        generator = random.Random(1)
        medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(2000))
        return statistics.median(ratios), (medians[50], medians[1949])


def draw(report: dict[str, object], cold: Answer, hit: Answer, interference: Interference) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plot

    figure, (left, right) = plot.subplots(1, 2, figsize=(10, 4))
    left.bar(["recomputed", "fetched"], [cold.first_token_s * 1e3, hit.first_token_s * 1e3], color=["#999", "#277"])
    left.set_ylabel("time to first token, ms")
    left.set_title(f"{PROMPT_TOKENS} tokens, new engine process")
    windows = [interference.windows["local"], interference.windows["remote"]]
    right.boxplot([[gap * 1e3 for gap in window] for window in windows])
    right.set_xticks([1, 2], ["beside local hits", "beside fetched hits"])
    right.set_ylabel("inter-token time of decoders, ms")
    right.set_title(f"interference {report['interference']:.3f}")
    figure.tight_layout()
    figure.savefig(OUT / "report.png", dpi=110)


def measure(model: Path, plane: DataPlane) -> dict[str, object]:
    tokens = prompt(PROMPT_TOKENS, 1)
    remote = [prompt(ARRIVAL_TOKENS, 100 + number) for number in range(REMOTE_ARRIVALS)]
    local = prompt(ARRIVAL_TOKENS, 99)
    with start_engine(model, plane, "engine 1") as engine:
        engine.generate(prompt(300, 2), 2)  # warms up: an engine's first request is slow
        cold = engine.generate(tokens, OUTPUT_TOKENS)
        say(f"cold prompt of {PROMPT_TOKENS} tokens: {cold.first_token_s:.2f} s to the first token")
        say(f"computing and saving {REMOTE_ARRIVALS} prompts for the interference run ...")
        for number, arrival in enumerate(remote):
            engine.generate(arrival, 1)
            plane.wait_for_chunks(1 + PROMPT_TOKENS // 256 + 4 * (number + 1))
    with start_engine(model, plane, "engine 2") as engine:
        engine.generate(prompt(300, 3), 2)
        hit = engine.generate(tokens, OUTPUT_TOKENS)
        say(f"same prompt, new engine: {hit.first_token_s * 1e3:.0f} ms, {hit.cached} tokens from the store")
        again = engine.generate(tokens, OUTPUT_TOKENS)
        say("decoding beside arrivals ...")
        interference = Interference(engine, plane, remote, local)
        interference.run()
    ratio, interval = interference.ratio()
    loaded = {kind: statistics.mean(windows) for kind, windows in interference.windows.items()}
    report: dict[str, object] = {
        "emulated": "data plane on a core of the same host; no SmartNIC",
        "engine": "vllm 0.32 cpu",
        "model": f"Llama, {SHAPE.layers} layers, {SHAPE.kv_bytes_per_token() // 1024} KiB of KV per token, random weights",
        "store": "disk",
        "profile": "lossless",
        "prompt_tokens": PROMPT_TOKENS,
        "hit_tokens": hit.cached,
        "ttft_cold_s": cold.first_token_s,
        "ttft_hit_s": hit.first_token_s,
        "ttft_local_hit_s": again.first_token_s,
        "outputs_identical": disagreement(cold, hit) is None,
        "tpot_alone_s": statistics.mean(interference.alone),
        "tpot_local_s": loaded["local"],
        "tpot_fetching_s": loaded["remote"],
        "interference": ratio,
        "interference_ci95": list(interval),
        "interference_windows": len(interference.windows["remote"]),
        "arrivals_per_s": 2 * REMOTE_ARRIVALS / interference.seconds,
        "wire_bytes": interference.wire_bytes,
        "kv_bytes": interference.kv_bytes,
    }
    draw(report, cold, hit, interference)
    return report


def print_table(report: dict[str, object]) -> None:
    cold, hit = float(str(report["ttft_cold_s"])), float(str(report["ttft_hit_s"]))
    local = float(str(report["ttft_local_hit_s"]))
    low, high = (float(bound) for bound in str(report["interference_ci95"]).strip("[]").split(","))
    rows = [
        ("first token, cold", f"{cold * 1e3:.0f} ms"),
        ("first token, fetched by a new engine", f"{hit * 1e3:.0f} ms ({cold / hit:.0f}x faster)"),
        ("first token, engine's own cache", f"{local * 1e3:.0f} ms"),
        ("tokens fetched / prompt", f"{report['hit_tokens']} / {report['prompt_tokens']}"),
        ("same output", "yes" if report["outputs_identical"] else "NO"),
        ("inter-token time alone", f"{float(str(report['tpot_alone_s'])) * 1e3:.2f} ms"),
        ("  beside local hits", f"{float(str(report['tpot_local_s'])) * 1e3:.2f} ms"),
        ("  beside fetched hits", f"{float(str(report['tpot_fetching_s'])) * 1e3:.2f} ms"),
        ("interference (95 % interval)", f"{report['interference']:.3f} ({low:.3f} .. {high:.3f})"),
    ]
    print("\n" + "\n".join(f"  {name:40} {value}" for name, value in rows) + "\n")


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    model = ROOT / "build" / "models" / "demo"
    if not (model / "config.json").exists():
        say("making the model ...")
        shutil.rmtree(model, ignore_errors=True)
        write_model(model, SHAPE)
    with tempfile.TemporaryDirectory(prefix="shadowserve-demo-") as folder:
        plane = DataPlane(Path(folder), cores=PLANE_CORES)
        plane.start()
        try:
            report = measure(model, plane)
        finally:
            plane.close()
    (OUT / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print_table(report)
    say("wrote out/demo/report.json and out/demo/report.png")
    return 0 if report["outputs_identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
