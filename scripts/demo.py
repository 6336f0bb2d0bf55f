#!/usr/bin/env python3
"""The main job on a real vLLM (`make demo`): cold prompt, hit in a new engine process, interference.

The engine is pinned to one core, the data plane to another. Both emulate the real places: a GPU host and a
SmartNIC or isolated cores. Writes out/demo/report.json and out/demo/report.png.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "scripts"), str(ROOT / "tests" / "e2e")]

from compare import disagreement, head  # noqa: E402
from dataplane import DAEMON, DataPlane  # noqa: E402
from engine import Answer, Engine, EngineOptions  # noqa: E402
from interference import CHUNK_TOKENS, Interference, Prompts, Result  # noqa: E402
from make_model import SHAPES, write_model  # noqa: E402
from rig import CORES, ENGINE_CORES, PLANE_CORES  # noqa: E402

START = time.monotonic()
OUT = ROOT / "out" / "demo"
SHAPE = SHAPES["demo"]
PROMPT_TOKENS = 5900  # all but 12 in whole chunks: little is left to compute on a hit
OUTPUT_TOKENS = 16
REPEATS = 12  # of the fetched and the local hit: a single difference varies by half of itself
REPEATED_TOKENS = 2  # of output; the first hit's answer is as long as the cold one's
ARRIVAL_TOKENS = 8 * CHUNK_TOKENS + 1
DECODER_TOKENS = 600
# Pages of the second engine. The decoders take 12 of them; in the rest two remote arrivals do not push the local
# one out (3 x 17 pages), but all of them a remote one before it comes again (3 x 16 + 17). interference.py checks it.
REMOTE_PROMPTS = 4
ENGINE_2_PAGES = 64
ENGINE_2_MAX_LEN = 7000
CONTROL_PATH_DAEMON = DAEMON.with_name("shadowserved_control_path")
HALF_WIDTH = 0.005


@dataclass
class Measured:
    """What the engines answered and how the decoders fared."""

    cold: Answer
    hits: list[Answer]  # fetched; the first by a new engine
    local_hits: list[Answer]
    fetching: Result
    control_path: Result
    same_core: Result | None  # negative control; needs two cores to differ


def say(text: str) -> None:
    print(f"demo: {time.monotonic() - START:4.0f} s: {text}", flush=True)


def prompt(length: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(1, SHAPE.vocabulary) for _ in range(length)]


def start_engine(model: Path, plane: DataPlane, name: str, **settings: Any) -> Engine:
    say(f"starting {name} (tens of seconds) ...")
    options = EngineOptions(model=model, data_plane=plane.address, **settings)
    return Engine(options, OUT / f"{name.replace(' ', '_')}.log")


def fill_store(engine: Engine, plane: DataPlane, prompts: list[list[int]], chunks: int) -> None:
    """Computes and saves them; `chunks` were offered before."""
    for tokens in prompts:
        engine.generate(tokens, 1)
        chunks += len(tokens) // CHUNK_TOKENS
        plane.wait_for_chunks(chunks)


def compare_hits(engine: Engine, tokens: list[int]) -> tuple[list[Answer], list[Answer]]:
    """The same prompt fetched (the first time by an engine that never saw it) and hit locally, in turn."""
    fetched, local = [], []
    for turn in range(REPEATS):
        fetched.append(engine.generate(tokens, REPEATED_TOKENS if turn else OUTPUT_TOKENS))
        local.append(engine.generate(tokens, 1))
        while not engine.reset_local_cache():
            time.sleep(0.01)
    return fetched, local


def measure(model: Path, plane: DataPlane, seconds: float, background: ThreadPoolExecutor) -> Measured:
    """The engines may still be ending, in the background, when it returns."""
    tokens = prompt(PROMPT_TOKENS, 1)
    remote = [prompt(ARRIVAL_TOKENS, 100 + n) for n in range(REMOTE_PROMPTS)]
    # Also stored by the cold prompt, whose beginning it is; a remote one is of its own.
    arrivals = Prompts(remote, tokens[:ARRIVAL_TOKENS])
    # It saves nothing: what the control-path data plane leaves in its pages is not KV.
    settings = {"pages": ENGINE_2_PAGES, "max_model_len": ENGINE_2_MAX_LEN, "connector": {"save": False}}
    with contextlib.ExitStack() as engines:
        first = start_engine(model, plane, "engine 1", cores=ENGINE_CORES)
        engines.callback(background.submit, first.stop)
        first.generate(prompt(300, 2), 2)  # warms up: an engine's first request is slow
        cold = first.generate(tokens, OUTPUT_TOKENS)
        say(f"cold prompt of {PROMPT_TOKENS} tokens: {cold.first_token_s:.2f} s to the first token")
        say(f"computing and saving {len(remote)} prompts for the interference run ...")
        # It gets ready on the data plane's core meanwhile, and moves when the first has ended.
        starting = background.submit(start_engine, model, plane, "engine 2", cores=PLANE_CORES, **settings)
        engines.callback(background.submit, lambda: starting.result().stop())
        fill_store(first, plane, remote, 1 + PROMPT_TOKENS // CHUNK_TOKENS)
        ending = background.submit(first.stop)
        engine = starting.result()
        engine.pin(ENGINE_CORES or CORES)
        engine.generate(prompt(300, 3), 2)
        ending.result()  # nothing else is on the cores from here on
        hits, local_hits = compare_hits(engine, tokens)
        say(f"same prompt, new engine: {hits[0].first_token_s * 1e3:.0f} ms, {hits[0].cached} tokens from the store")
        decoders = [prompt(64, 900), prompt(64, 950)]
        interference = Interference(engine, arrivals, decoders, DECODER_TOKENS)
        say(f"decoding beside arrivals, {seconds:.0f} s at most ...")
        fetching = interference.run(plane, seconds, HALF_WIDTH, alone=True)
        say("the same with nothing copied (control path alone) ...")
        plane.restart(program=CONTROL_PATH_DAEMON, at_once=True)
        control_path = interference.run(plane, seconds / 2, HALF_WIDTH)
        same_core = None
        if ENGINE_CORES != PLANE_CORES:
            say("the same with the data plane on the engine's core (negative control) ...")
            plane.restart(program=DAEMON, cores=ENGINE_CORES, at_once=True)
            same_core = interference.run(plane, seconds / 4, 0.05)
    return Measured(cold, hits, local_hits, fetching, control_path, same_core)


def pairs_of_hits(measured: Measured) -> list[tuple[Answer, Answer]]:
    """(fetched, local) of one turn."""
    return list(zip(measured.hits, measured.local_hits, strict=True))


def make_report(measured: Measured) -> dict[str, object]:
    fetching, control = measured.fetching, measured.control_path
    hit, local_hits = measured.hits[0], measured.local_hits
    beyond_local = [fetched.first_token_s - local.first_token_s for fetched, local in pairs_of_hits(measured)]
    report: dict[str, object] = {
        "emulated": "data plane on a core of the same host; no SmartNIC",
        "engine": "vllm 0.32 cpu",
        "model": f"Llama, {SHAPE.layers} layers, {SHAPE.kv_bytes_per_token() // 1024} KiB of KV per token, random weights",
        "store": "disk",
        "profile": "lossless",
        "prompt_tokens": PROMPT_TOKENS,
        "hit_tokens": hit.cached,
        "ttft_cold_s": measured.cold.first_token_s,
        "ttft_hit_s": hit.first_token_s,
        "ttft_local_hit_s": statistics.median(local.first_token_s for local in local_hits),
        "hit_beyond_local_hit_s": statistics.median(beyond_local),
        "outputs_identical": all(
            disagreement(head(measured.cold, len(each.tokens)), each) is None for each in measured.hits
        ),
        "tpot_alone_s": fetching.tpot["alone"],
        "tpot_local_s": fetching.tpot["local"],
        "tpot_fetching_s": fetching.tpot["remote"],
        "p99_gap_local_s": fetching.p99["local"],
        "p99_gap_fetching_s": fetching.p99["remote"],
        "interference": fetching.ratio,
        "interference_ci95": list(fetching.ci95),
        "interference_blocks": fetching.blocks,
        "window_tokens": fetching.window_tokens,
        "arrival_tokens": ARRIVAL_TOKENS,
        "arrivals_per_s": fetching.remote_arrivals_per_s,
        "fetch_kv_bytes_per_s": fetching.fetch_kv_bytes_per_s,
        "data_plane_busy": fetching.stage_busy,
        "lost_decode_ms_per_gib": fetching.lost_ms_per_gib,
        "control_path": control.ratio,
        "control_path_ci95": list(control.ci95),
        "wire_bytes": fetching.wire_bytes,
        "kv_bytes": fetching.kv_bytes,
    }
    if measured.same_core is not None:
        report["same_core"] = measured.same_core.ratio
        report["same_core_ci95"] = list(measured.same_core.ci95)
    return report


def draw(measured: Measured) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plot

    figure, (left, right) = plot.subplots(1, 2, figsize=(11, 4.2))
    local_s = statistics.median(local.first_token_s for local in measured.local_hits)
    times = [measured.cold.first_token_s, measured.hits[0].first_token_s, local_s]
    bars = left.bar(
        ["recomputed", "fetched by\na new engine", "engine's\nown cache"], times, color=["#999", "#277", "#9bb"]
    )
    left.bar_label(bars, [f"{time * 1e3:.0f} ms" for time in times])
    left.set_yscale("log")
    left.set_ylim(min(times) / 4, max(times) * 2)
    left.set_ylabel("time to first token, s")
    left.set_title(f"{PROMPT_TOKENS} tokens, {SHAPE.kv_bytes_per_token() // 1024} KiB of KV each")
    windows = measured.fetching.windows
    boxes = [("alone", windows["alone"]), ("beside\nlocal hits", windows["local"])]
    boxes += [("beside\nfetched hits", windows["remote"])]
    if measured.same_core is not None:
        boxes += [("fetched on the\nengine's core", measured.same_core.windows["remote"])]
    right.boxplot([[gap * 1e3 for gap in values] for _, values in boxes], showfliers=False)
    right.set_xticks(range(1, len(boxes) + 1), [name for name, _ in boxes])
    right.set_ylabel("inter-token time of decoders, ms")
    right.set_ylim(bottom=0)
    low, high = measured.fetching.ci95
    right.set_title(f"interference {measured.fetching.ratio:.3f} ({low:.3f} .. {high:.3f})")
    figure.suptitle("ShadowServe on vLLM's CPU build; the SmartNIC is emulated by a core")
    figure.tight_layout()
    figure.savefig(OUT / "report.png", dpi=110)


def with_interval(result: Result) -> str:
    return f"{result.ratio:.3f} ({result.ci95[0]:.3f} .. {result.ci95[1]:.3f})"


def print_table(measured: Measured, report: dict[str, object]) -> None:
    cold, hit = measured.cold.first_token_s, measured.hits[0].first_token_s
    fetching = measured.fetching
    local, beyond = float(str(report["ttft_local_hit_s"])), float(str(report["hit_beyond_local_hit_s"]))
    rows = [
        ("first token, cold", f"{cold * 1e3:.0f} ms"),
        ("first token, fetched by a new engine", f"{hit * 1e3:.0f} ms ({cold / hit:.0f}x faster)"),
        ("first token, engine's own cache", f"{local * 1e3:.0f} ms; fetched takes {beyond * 1e3:.0f} ms more"),
        ("tokens fetched / prompt", f"{report['hit_tokens']} / {PROMPT_TOKENS}"),
        ("same output", "yes" if report["outputs_identical"] else "NO"),
        ("inter-token time alone", f"{fetching.tpot['alone'] * 1e3:.2f} ms"),
        ("  beside local hits", f"{fetching.tpot['local'] * 1e3:.2f} ms"),
        ("  beside fetched hits", f"{fetching.tpot['remote'] * 1e3:.2f} ms"),
        ("interference (95 % interval)", with_interval(fetching)),
        ("  control path alone", with_interval(measured.control_path)),
    ]
    if measured.same_core is not None:
        rows.append(("  data plane on the engine's core", with_interval(measured.same_core)))
    rows += [
        ("fetching at", f"{fetching.fetch_kv_bytes_per_s / 1e9:.2f} GB/s of KV, plane {fetching.stage_busy:.0%} busy"),
        ("decode time lost", f"{fetching.lost_ms_per_gib:.1f} ms per GiB fetched"),
    ]
    print("\n" + "\n".join(f"  {name:40} {value}" for name, value in rows) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=16, help="longest decoding beside arrivals (default 16)")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    model = ROOT / "build" / "models" / "demo"
    write_model(model, SHAPE)
    with (
        tempfile.TemporaryDirectory(prefix="shadowserve-demo-") as folder,
        contextlib.closing(DataPlane(Path(folder), cores=PLANE_CORES)) as plane,
        ThreadPoolExecutor(3) as background,
    ):
        plane.start()
        measured = measure(model, plane, arguments.seconds, background)
        report = make_report(measured)
        draw(measured)
        (OUT / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        print_table(measured, report)
        say("wrote out/demo/report.json and out/demo/report.png")
    whole_chunks = PROMPT_TOKENS // CHUNK_TOKENS * CHUNK_TOKENS
    return 0 if report["outputs_identical"] and all(hit.cached == whole_chunks for hit in measured.hits) else 1


if __name__ == "__main__":
    sys.exit(main())
