"""ShadowServeConnector: what vLLM loads. Delegates to a scheduler half or a worker half, nothing else.

vLLM imports this module in every process, also in the front end: the control plane in C++ is loaded only
where a half is made. Written against vLLM 0.32 (v1/base.py, experimental there).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)
from vllm.logger import init_logger

from shadowserve.config import parse_config
from shadowserve.fingerprint import Identity, model_root
from shadowserve.layout import CPU_VEC, RankSlice, cell_form, describe_pages
from shadowserve.metadata import ShadowServeMetadata
from shadowserve.model_facts import first_head_of_rank, read_facts
from shadowserve.scheduler_half import SchedulerHalf, manager_options
from shadowserve.stats import ShadowServePromMetrics, ShadowServeStats, to_stats
from shadowserve.worker_half import WorkerHalf, worker_options

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

logger: logging.Logger = init_logger("vllm.shadowserve")

# The data plane's first answer at start: long enough to hear a refusal, short enough for one that is away.
_FIRST_ANSWER_S = 2.0


class ShadowServeConnector(KVConnectorBase_V1, SupportsHMA):
    """Raises RefusedError at start for what can never work; never raises afterwards."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._config = parse_config(self._kv_transfer_config.kv_connector_extra_config)
        self._facts = read_facts(vllm_config, kv_cache_config)
        self._engine_id = str(self._kv_transfer_config.engine_id)
        self._scheduler: SchedulerHalf | None = None
        self._worker: WorkerHalf | None = None
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = self._make_scheduler_half()
        else:
            self._worker = self._make_worker_half()

    # --- construction ---------------------------------------------------------------------------

    def _make_scheduler_half(self) -> SchedulerHalf:
        from shadowserve import _core

        transfer = self._kv_transfer_config
        options = manager_options(
            self._config,
            self._facts,
            self._engine_id,
            model_root(_core, self._vllm_config),
            save=self._config.save and transfer.is_kv_producer,
            early_write=_steps_never_overlap(self._vllm_config),
        )
        manager = _core.KvManager(options)
        if not manager.wait_ready(_FIRST_ANSWER_S):
            logger.warning("shadowserve: no data plane at %s yet; serving without it", self._config.data_plane)
        return SchedulerHalf(
            manager,
            Identity(_core),
            self._config,
            self._facts,
            logger,
            load=transfer.is_kv_consumer,
            save=transfer.is_kv_producer,
        )

    def _make_worker_half(self) -> WorkerHalf:
        from shadowserve import _core

        devices = ["mapped", "process_vm"] if _on_cpu() else ["cuda"]
        rank = self._vllm_config.parallel_config.rank
        return WorkerHalf(
            _core.KvWorker(worker_options(self._config, self._facts, self._engine_id, rank, devices)), logger
        )

    # --- worker side ----------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        assert self._worker is not None
        from vllm.model_executor.models.utils import extract_layer_index

        names = sorted(kv_caches, key=extract_layer_index)
        tensors = [kv_caches[name] for name in names]
        storage = tensors[0].untyped_storage()
        parallel = self._vllm_config.parallel_config
        tp_rank = parallel.rank % parallel.tensor_parallel_size
        spec = self._kv_cache_config.kv_cache_groups[0].kv_cache_spec
        rank = RankSlice(
            first_layer=extract_layer_index(names[0]) if parallel.pipeline_parallel_size > 1 else 0,
            first_head=first_head_of_rank(self._facts.kv_heads, parallel.tensor_parallel_size, tp_rank),
            heads=spec.num_kv_heads,
            head_dim=spec.head_size,
            page_tokens=spec.block_size,
            page_count=self._kv_cache_config.num_blocks,
        )
        form = cell_form(tensors[0].device.type, _cpu_isa(self._vllm_config, spec) if _on_cpu() else None)
        layout = describe_pages(form, storage.data_ptr(), storage.nbytes(), tensors, rank)
        logger.info("shadowserve: KV pages of form %s, %d layers", CPU_VEC if form == CPU_VEC else "rows", len(names))
        self._worker.register(storage.data_ptr(), storage.nbytes(), layout)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        assert self._worker is not None
        metadata = self._get_connector_metadata()
        if isinstance(metadata, ShadowServeMetadata):
            self._worker.begin_step(metadata)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are whole requests: nothing waits inside a forward."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Saves read pages one-sidedly, later: nothing is copied here."""

    def wait_for_save(self) -> None:
        """Pages of saves are referenced in the block pool: nothing has to be waited for."""

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        assert self._worker is not None
        received, failed = self._worker.results()
        return KVConnectorTransferResults(finished_recving=received, failed_recving=failed)

    # --- scheduler side -------------------------------------------------------------------------

    @property
    def requires_kv_delivery(self) -> bool:
        return False  # a dropped save is a later miss, nothing more

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        assert self._scheduler is not None
        self._scheduler.bind_block_pool(gpu_block_pool)

    def on_new_request(self, request: Any) -> None:
        assert self._scheduler is not None
        self._scheduler.on_new_request(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        assert self._scheduler is not None
        return self._scheduler.matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        assert self._scheduler is not None
        self._scheduler.allocated(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        assert self._scheduler is not None
        return self._scheduler.step_metadata(scheduler_output)

    def update_connector_output(self, connector_output: Any) -> None:
        assert self._scheduler is not None
        self._scheduler.worker_reported(connector_output)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        assert self._scheduler is not None
        self._scheduler.finished(request, block_ids[0])
        return False, None

    def has_pending_push_work(self) -> bool:
        return self._scheduler is not None and self._scheduler.wants_steps()

    def take_events(self) -> Iterable[Any]:
        return ()

    def reset_cache(self) -> bool | None:
        assert self._scheduler is not None
        return self._scheduler.reset_cache()

    # --- both -----------------------------------------------------------------------------------

    def get_kv_connector_stats(self) -> ShadowServeStats | None:
        half = self._scheduler or self._worker
        return to_stats(half.stats()) if half is not None else None

    def shutdown(self) -> None:
        half = self._scheduler or self._worker
        if half is not None:
            half.close()

    # --- class level ----------------------------------------------------------------------------

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> ShadowServeStats:
        return ShadowServeStats(data=data or {})

    @classmethod
    def build_prom_metrics(cls, *arguments: Any, **keywords: Any) -> ShadowServePromMetrics:
        return ShadowServePromMetrics(*arguments, **keywords)

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: VllmConfig) -> str | None:
        # One page of all layers in one run: long writes, and no scatter kernel on a GPU.
        return None if _on_cpu() else "BLHNC"


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _steps_never_overlap(vllm_config: VllmConfig) -> bool:
    """True where a page may be written as soon as it is allocated: the forward before is over, and the
    step neither zeroes nor copies pages (vLLM's CPU backend with model runner V1)."""
    return (
        _on_cpu()
        and not vllm_config.use_v2_model_runner
        and not vllm_config.scheduler_config.async_scheduling
        and vllm_config.parallel_config.pipeline_parallel_size == 1
    )


def _cpu_isa(vllm_config: VllmConfig, spec: Any) -> str:
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    return str(
        _get_attn_isa(
            vllm_config.model_config.dtype, spec.block_size, spec.head_size, vllm_config.cache_config.cache_dtype
        )
    )
