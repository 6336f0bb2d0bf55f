#!/usr/bin/env python3
"""Draws a stretch of a trace (`shadowctl trace --output trace.json`): one lane per stage, time to the right.

    .venv/bin/python scripts/draw_trace.py trace.json --output trace.svg [--start-ms 0] [--ms 20]

Without --start-ms it starts with the first segment asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# From top to bottom: fetches, then saves.
LANES = ["store to slab", "decode", "dequantize", "write", "read", "quantize", "encode", "slab to store"]
COLOURS = ["#277", "#5a9", "#c73", "#a53", "#678", "#89a", "#567"]


@dataclass(frozen=True)
class Span:
    lane: str
    start_ms: float
    end_ms: float
    chunk: str


def spans_of(trace: dict[str, Any]) -> list[Span]:
    events = trace["traceEvents"]
    lanes = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    spans, begun = [], {}
    for event in events:
        if event["ph"] == "M":
            continue
        start_ms, chunk = event["ts"] / 1e3, event["args"]["chunk"]
        if event["ph"] == "X":
            spans.append(Span(lanes[event["tid"]], start_ms, start_ms + event["dur"] / 1e3, chunk))
        elif event["ph"] == "b":
            begun[event["id"]] = start_ms
        else:
            name = "store to slab" if event["name"] == "get" else "slab to store"
            spans.append(Span(name, begun[event["id"]], start_ms, chunk))
    return spans


def draw(spans: list[Span], start_ms: float, length_ms: float, output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plot

    shown = [span for span in spans if span.end_ms > start_ms and span.start_ms < start_ms + length_ms]
    lanes = [lane for lane in LANES if any(span.lane == lane for span in spans)]
    chunks = list(dict.fromkeys(span.chunk for span in shown))
    # Segments on their way overlap: each gets a row of its own within the lane.
    rows: list[tuple[str, list[float]]] = [(lane, []) for lane in lanes]
    figure, axes = plot.subplots(figsize=(10, 0.8 + 0.62 * len(lanes)))
    for row, (lane, ends) in enumerate(rows):
        placed = []
        for span in (span for span in shown if span.lane == lane):
            free = next((i for i, end in enumerate(ends) if end <= span.start_ms), len(ends))
            ends[free : free + 1] = [span.end_ms]
            placed.append((free, span))
        for free, span in placed:
            height = 0.8 / max(1, len(ends))
            axes.broken_barh(
                [(span.start_ms - start_ms, span.end_ms - span.start_ms)],
                (-row - 0.4 + free * height, height * 0.9),
                facecolors=COLOURS[chunks.index(span.chunk) % len(COLOURS)],
            )
    axes.set_yticks([-row for row in range(len(rows))], [lane for lane, _ in rows])
    axes.set_xlim(0, length_ms)
    axes.set_xlabel("ms; one colour per chunk")
    figure.tight_layout()
    figure.savefig(output, metadata={"Date": None} if output.suffix == ".svg" else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("--output", type=Path, default=Path("trace.svg"))
    parser.add_argument("--start-ms", type=float)
    parser.add_argument("--ms", type=float, default=20)
    arguments = parser.parse_args()
    spans = spans_of(json.loads(arguments.trace.read_text()))
    if not spans:
        print("draw_trace: the trace is empty: nothing was fetched or saved meanwhile", file=sys.stderr)
        return 1
    start_ms = min(span.start_ms for span in spans) if arguments.start_ms is None else arguments.start_ms
    draw(spans, start_ms, arguments.ms, arguments.output)
    print(f"{arguments.output}: {len(spans)} spans, drawn from {start_ms:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
