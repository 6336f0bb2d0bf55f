"""What arrivals cost the decoding of others: fetched from the store against hit in the engine's own cache.

Decode runs of two long requests. Arrivals (one output token, k chunks + 1 tokens, so both kinds compute the
same) come one at a time in blocks remote, local, local, remote, nothing; the mean inter-token time over the
window after each is what counts. A window is a little longer than serving a fetched arrival beside decoding
usually takes, and lasts until this one is served. (Groups of arrivals would keep the data plane busier, but fetched ones are then admitted in several
steps, local ones in one, and the difference is the scheduler's, not the data plane's.) The ratio of a block is its remote windows over its local ones, so
drift cancels; the result is the median over blocks with a bootstrap interval, and blocks go on until that is
narrow or the time is over.

Remote prompts are more than the engine's free pages hold and come round robin: each is evicted before it
comes again. That every one of them was fetched is checked by the data plane's own count.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from dataplane import DataPlane
from engine import Answer, Engine

CHUNK_TOKENS = 256
BLOCK = ("remote", "local", "local", "remote")
WARM_UP_TOKENS = 20
# vLLM answers arrivals between steps, so a window has some tokens more than the fetch takes.
WINDOW_MARGIN_TOKENS = 2
ALONE = "alone"  # a window without an arrival
BLOCKS_MIN = 6  # fewer have no 95 % interval of a median
CALIBRATION_ARRIVALS = 5
# Part of the remote tokens that the engine may have kept, or of local ones that it may have lost.
FETCHED_TOLERANCE = 0.05
# How much longer than asked a slow machine may take to its first BLOCKS_MIN blocks.
GIVE_UP_S = 120


@dataclass
class Prompts:
    """`remote` are stored; `local` is one prompt that stays in the engine's own cache."""

    remote: list[list[int]]
    local: list[int]

    @property
    def hit_tokens(self) -> int:
        return len(self.local) // CHUNK_TOKENS * CHUNK_TOKENS


@dataclass
class Result:
    """Seconds, bytes. `ratio` with its 95 % interval."""

    ratio: float
    ci95: tuple[float, float]
    blocks: int
    window_tokens: int
    tpot: dict[str, float]  # mean by kind of window
    p99: dict[str, float]  # of single inter-token times
    windows: dict[str, list[float]] = field(repr=False)
    lost_ms_per_gib: float = 0.0
    remote_arrivals_per_s: float = 0.0  # within remote windows
    fetch_kv_bytes_per_s: float = 0.0  # within remote windows
    stage_busy: float = 0.0  # of the data plane, part of the remote windows' time
    wire_bytes: float = 0.0
    kv_bytes: float = 0.0


def median_with_interval(values: list[float]) -> tuple[float, tuple[float, float]]:
    """The median and its 95 % bootstrap interval (seeded: the same values give the same interval)."""
    generator = random.Random(1)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), (medians[50], medians[1949])


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


class _Decoders:
    """Two long requests; tells how many tokens the watched one has."""

    def __init__(self, engine: Engine, prompts: list[list[int]], tokens_max: int, name: str) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._count = 0
        self._names = [f"{name}-{number}" for number in range(len(prompts))]
        self.futures = [
            engine.submit(prompt, tokens_max, request_id=request_id, on_tokens=self._on_tokens if number == 0 else None)
            for number, (prompt, request_id) in enumerate(zip(prompts, self._names, strict=True))
        ]

    def _on_tokens(self, count: int) -> None:
        with self._changed:
            self._count = count
            self._changed.notify_all()

    def wait_for(self, count: int) -> int:
        with self._changed:
            end = time.monotonic() + 60
            while self._count < count:
                if not self._changed.wait(1) and time.monotonic() > end:
                    raise TimeoutError("the decoding requests stand still")
            return self._count

    @property
    def count(self) -> int:
        return self._count

    def finish(self) -> Answer:
        """Ends them; the watched one's answer."""
        for name in self._names:
            self._engine.abort(name)
        watched, *_ = [future.result(60) for future in self.futures]
        return watched


@dataclass
class _Mark:
    """A window of a decode run: after which token it begins, and its last one."""

    kind: str
    begin: int
    end: int


class _Windows:
    """Inter-token times by kind of window, over several decode runs."""

    def __init__(self) -> None:
        self.fetched = 0  # remote arrivals
        self._means: defaultdict[str, list[float]] = defaultdict(list)
        self._single: defaultdict[str, list[float]] = defaultdict(list)

    @property
    def blocks(self) -> int:
        return min(len(self._means["remote"]), len(self._means["local"])) // 2

    def add(self, answer: Answer, marks: list[_Mark]) -> None:
        for mark in marks:
            kind, times = mark.kind, answer.times[mark.begin - 1 : mark.end]
            self._means[kind].append((times[-1] - times[0]) / (mark.end - mark.begin))
            self._single[kind] += [later - earlier for earlier, later in itertools.pairwise(times)]

    def ratios(self) -> list[float]:
        remote, local = self._means["remote"], self._means["local"]
        return [sum(remote[i : i + 2]) / sum(local[i : i + 2]) for i in range(0, 2 * self.blocks, 2)]

    def judge(self, window: int, before: _Counts, after: _Counts) -> Result:
        ratio, interval = median_with_interval(self.ratios())
        remote_s = sum(self._single["remote"])
        lost_s = remote_s - len(self._single["remote"]) * statistics.mean(self._single["local"])
        kv_bytes = after.kv_bytes - before.kv_bytes
        return Result(
            ratio=ratio,
            ci95=interval,
            blocks=self.blocks,
            window_tokens=window,
            tpot={kind: statistics.mean(values) for kind, values in self._means.items()},
            p99={kind: percentile(values, 0.99) for kind, values in self._single.items()},
            windows=self._means,
            lost_ms_per_gib=lost_s * 1e3 / (kv_bytes / 2**30) if kv_bytes else math.nan,
            remote_arrivals_per_s=len(self._means["remote"]) / remote_s,
            fetch_kv_bytes_per_s=kv_bytes / remote_s,
            stage_busy=(after.busy_s - before.busy_s) / remote_s,
            wire_bytes=after.wire_bytes - before.wire_bytes,
            kv_bytes=kv_bytes,
        )


class Interference:
    """One engine, whose data plane may be exchanged between runs."""

    def __init__(self, engine: Engine, prompts: Prompts, decoder_prompts: list[list[int]], tokens_max: int) -> None:
        self._engine = engine
        self._prompts = prompts
        self._decoder_prompts = decoder_prompts
        self._tokens_max = tokens_max
        self._next_remote = 0
        self._runs = 0
        self._window = 0  # tokens; the same in all runs, so that they compare

    def run(self, plane: DataPlane, seconds: float, half_width: float = 0.0, alone: bool = False) -> Result:
        """Decode runs until the 95 % interval is within +-`half_width`, at the latest after `seconds`. `alone`:
        with windows without an arrival, too."""
        self._wait_for_hits(plane)
        self._window = window = self._window or self._calibrate()
        self._engine.generate(self._prompts.local, 1)
        before, collected = _Counts(plane), _Windows()
        end = time.monotonic() + seconds
        while True:
            self._decode_run(collected, (*BLOCK, ALONE) if alone else BLOCK, end)
            if collected.blocks >= BLOCKS_MIN:
                low, high = median_with_interval(collected.ratios())[1]
                if time.monotonic() > end or high - low <= 2 * half_width:
                    break
            elif time.monotonic() > end + GIVE_UP_S:
                raise RuntimeError(f"only {collected.blocks} blocks of windows: too few to judge")
        after = _Counts(plane)
        expected = collected.fetched * self._prompts.hit_tokens
        if abs(after.tokens - before.tokens - expected) > FETCHED_TOLERANCE * expected:
            raise RuntimeError(f"arrivals took {expected} tokens, but {after.tokens - before.tokens} were fetched")
        return collected.judge(window, before, after)

    # --- inside ---------------------------------------------------------------------------------

    def _start_decoders(self) -> _Decoders:
        self._runs += 1
        decoders = _Decoders(self._engine, self._decoder_prompts, self._tokens_max, f"decoder{self._runs}")
        decoders.wait_for(WARM_UP_TOKENS)
        return decoders

    def _decode_run(self, collected: _Windows, block: Sequence[str], end: float) -> None:
        """One decode run up to its last token or `end`."""
        decoders = self._start_decoders()
        marks: list[_Mark] = []
        last_begin = self._tokens_max - self._window
        run_end = max(end, time.monotonic() + 2)  # also past the end: too few blocks cannot be judged
        while time.monotonic() < run_end and decoders.count + len(block) * self._window <= last_begin:
            windows = []
            for kind in block:
                if decoders.count > last_begin:  # slow arrivals took this one's tokens: half a block does not count
                    break
                windows.append(self._take_window(kind, decoders, collected))
            else:
                marks += windows
        collected.add(decoders.finish(), marks)

    def _take_window(self, kind: str, decoders: _Decoders, collected: _Windows) -> _Mark:
        begin = decoders.count
        arrival = None if kind == ALONE else self._arrive(kind)
        decoders.wait_for(begin + self._window)
        end = begin + self._window
        if arrival is not None:
            late = not arrival.done()
            self._check(kind, arrival)
            collected.fetched += kind == "remote"
            if late:
                end = decoders.count
        return _Mark(kind, begin, end)

    def _next(self) -> list[int]:
        self._next_remote = (self._next_remote + 1) % len(self._prompts.remote)
        return self._prompts.remote[self._next_remote]

    def _arrive(self, kind: str) -> Future[Answer]:
        return self._engine.submit(self._next() if kind == "remote" else self._prompts.local, 1)

    def _check(self, kind: str, arrival: Future[Answer]) -> None:
        cached = arrival.result(60).cached
        if cached != self._prompts.hit_tokens:
            raise RuntimeError(f"a {kind} arrival hit {cached} tokens, not {self._prompts.hit_tokens}")

    def _wait_for_hits(self, plane: DataPlane) -> None:
        """After an exchange of the data plane the engine finds the new one by itself."""
        end = time.monotonic() + 60
        before = plane.metric("shadowserve_fetch_tokens_total")
        while plane.metric("shadowserve_fetch_tokens_total") == before:
            if time.monotonic() > end:
                raise TimeoutError("no prompt was fetched within 60 s")
            self._engine.generate(self._next(), 1)

    def _calibrate(self) -> int:
        """Tokens that decoders usually get while a fetched arrival is served, and a margin."""
        decoders = self._start_decoders()
        tokens = []
        for _ in range(CALIBRATION_ARRIVALS):
            begin = decoders.wait_for(decoders.count + 3)
            self._check("remote", self._arrive("remote"))
            tokens.append(decoders.count - begin)
        decoders.finish()
        return statistics.median_high(tokens) + WINDOW_MARGIN_TOKENS


class _Counts:
    """The data plane's counters at one moment."""

    def __init__(self, plane: DataPlane) -> None:
        self.tokens = int(plane.metric("shadowserve_fetch_tokens_total"))
        self.wire_bytes = plane.metric("shadowserve_wire_bytes_total", direction="in")
        self.kv_bytes = plane.metric("shadowserve_kv_bytes_total", direction="in")
        self.busy_s = sum(
            plane.metric("shadowserve_stage_busy_seconds_total", stage=stage)
            for stage in ("decode", "dequantize", "write")
        )
