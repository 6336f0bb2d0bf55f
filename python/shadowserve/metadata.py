"""What the scheduler half tells the worker halves in each step."""

from __future__ import annotations

from dataclasses import dataclass

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata


@dataclass
class ShadowServeMetadata(KVConnectorMetadata):
    """Pickled by vLLM once per step and rank."""

    payload: bytes = b""  # of KvManager.metadata, for KvWorker.begin_step
    scheduled_tokens: int = 0  # in this step; 0 = the worker may wait a moment for a load
    failed_loads: tuple[str, ...] = ()  # loads that never reached the data plane: to be reported as failed
