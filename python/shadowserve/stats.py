"""Counts for vLLM's log line and its Prometheus endpoint: one dictionary from name to number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Gauge
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

# Current values, not counts: the latest of several is kept, never their sum.
GAUGES = frozenset({"quarantined_pages", "held_pages", "loads_pending"})


class ShadowServeStats(KVConnectorStats):
    """`data`: count by name since the last report."""

    def reset(self) -> None:
        self.data: dict[str, int] = {}

    def aggregate(self, other: KVConnectorStats) -> ShadowServeStats:
        merged = dict(self.data)
        for name, value in other.data.items():
            merged[name] = value if name in GAUGES else merged.get(name, 0) + value
        return ShadowServeStats(data=merged)

    def reduce(self) -> dict[str, int | float]:
        return {name: value for name, value in self.data.items() if value}

    def is_empty(self) -> bool:
        return not any(self.data.values())


def to_stats(counts: Mapping[str, int]) -> ShadowServeStats | None:
    """None when there is nothing to report."""
    stats = ShadowServeStats(data=dict(counts))
    return None if stats.is_empty() else stats


class ShadowServePromMetrics(KVConnectorPromMetrics):
    """`vllm:shadowserve_<name>`, one series per engine, created when a name is first seen."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._metrics: dict[str, Any] = {}

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        labels = self.per_engine_labelvalues.get(engine_idx)
        if labels is None:
            return
        for name, value in transfer_stats_data.items():
            metric = self._metric(name).labels(*labels)
            if name in GAUGES:
                metric.set(value)
            else:
                metric.inc(value)

    def _metric(self, name: str) -> Counter | Gauge:
        if name not in self._metrics:
            create = self._gauge_cls if name in GAUGES else self._counter_cls
            self._metrics[name] = create(
                name=f"vllm:shadowserve_{name}",
                documentation=f"ShadowServe connector: {name.replace('_', ' ')}.",
                labelnames=self._labelnames,
            )
        return self._metrics[name]
