"""The half in a worker: registers the KV memory, grants writes and reports completions of one rank.

Owner: the worker's thread. Nothing here raises into vLLM after registration (guard.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shadowserve.config import ConnectorConfig
from shadowserve.guard import Guard
from shadowserve.metadata import ShadowServeMetadata
from shadowserve.model_facts import ModelFacts

if TYPE_CHECKING:
    from shadowserve._core import KvWorker

# An idle engine may block this long for a load; longer would hold up new requests.
_IDLE_WAIT_US = 1000
_STATS_INTERVAL_S = 0.5


def worker_options(
    config: ConnectorConfig, facts: ModelFacts, engine_id: str, rank: int, devices: list[str]
) -> dict[str, object]:
    """What KvWorker wants to know (_core.pyi)."""
    return {
        **config.data_plane_options(),
        "engine_id": engine_id,
        "rank": rank,
        "world_size": facts.world_size,
        "layers": facts.layers,
        "kv_heads": facts.kv_heads,
        "head_dim": facts.head_dim,
        "dtype": facts.dtype,
        "devices": devices,
        "fetch_deadline_s": config.fetch_deadline_s,
    }


class WorkerHalf:
    """One per rank."""

    def __init__(self, worker: KvWorker, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._logger = logger
        self._clock = clock
        self._guard = Guard(logger, clock)
        self._idle_step = False
        self._failed: set[str] = set()
        self._last_stats = float("-inf")

    def register(self, address: int, nbytes: int, layout: dict[str, object]) -> None:
        """Raises Refused when this layout or memory can never work."""
        device = self._worker.register(address, nbytes, layout)
        if device:
            self._logger.info("shadowserve: %d bytes of KV memory registered by %s", nbytes, device)
        else:
            self._logger.warning("shadowserve: the data plane cannot be reached; serving without it until it is there")

    def begin_step(self, metadata: ShadowServeMetadata) -> None:
        self._idle_step = metadata.scheduled_tokens == 0
        self._failed.update(metadata.failed_loads)
        self._guard.run("start_load_kv", lambda: self._worker.begin_step(metadata.payload), None)

    def results(self) -> tuple[set[str], set[str]]:
        """(received, failed): each load once; failed ones are in both, as vLLM wants it."""
        nothing: tuple[list[str], list[str]] = ([], [])
        received, failed = self._guard.run("get_transfer_results", self._poll, nothing)
        all_failed = self._failed.union(failed)
        self._failed.clear()
        return all_failed.union(received), all_failed

    def _poll(self) -> tuple[list[str], list[str]]:
        wait = self._idle_step and not self._failed and self._worker.pending() > 0
        return self._worker.poll(_IDLE_WAIT_US if wait else 0)

    def stats(self) -> dict[str, int]:
        now = self._clock()
        if now - self._last_stats < _STATS_INTERVAL_S:
            return {}
        self._last_stats = now
        nothing: dict[str, int] = {}
        return self._guard.run("stats", self._worker.stats, nothing)

    def close(self) -> None:
        self._guard.run("shutdown", self._worker.close, None)
