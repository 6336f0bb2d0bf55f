"""What ShadowServe must know of the engine, read from vLLM's configuration once at start.

Everything that the store's format, the page mapping or the fencing does not cover is refused here, by
name and with the remedy: guessing would put wrong bytes into an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shadowserve.config import CHUNK_TOKENS, RefusedError

_DTYPES = {
    "torch.bfloat16": "bf16",
    "torch.float16": "fp16",
    "torch.float8_e4m3fn": "fp8_e4m3",
    "torch.float8_e5m2": "fp8_e5m2",
}
_LAYOUTS = ("LBHNC", "LBNHC", "LHBNC", "BLHNC", "BLNHC", "BHLNC")
# Methods of speculative decoding that keep no KV of their own.
_DRAFTERS_WITHOUT_KV = ("ngram", "ngram_gpu", "suffix", "medusa", "mlp_speculator")
_OTHER_CACHE = "remedy: serve this model without ShadowServe"


@dataclass(frozen=True)
class ModelFacts:
    """The whole model's KV, and this engine's pages."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    page_tokens: int
    page_count: int
    world_size: int


def read_facts(vllm_config: Any, kv_cache_config: Any) -> ModelFacts:
    """Raises RefusedError for what is not supported."""
    _refuse_engine(vllm_config)
    spec, layer_names = _only_group(kv_cache_config)
    _refuse_spec(spec)
    if kv_cache_config.kv_cache_layout not in (*_LAYOUTS, None):
        raise RefusedError(
            f"KV cache layout '{kv_cache_config.kv_cache_layout}' is not known; remedy: set VLLM_KV_CACHE_LAYOUT to one "
            f"of {', '.join(_LAYOUTS)}"
        )
    parallel = vllm_config.parallel_config
    layers = len(layer_names)
    if parallel.pipeline_parallel_size > 1:
        layers = vllm_config.model_config.get_total_num_hidden_layers()
    return ModelFacts(
        layers=layers,
        kv_heads=vllm_config.model_config.get_total_num_kv_heads(),
        head_dim=spec.head_size,
        dtype=_dtype_name(vllm_config, spec),
        page_tokens=spec.block_size,
        page_count=kv_cache_config.num_blocks,
        world_size=parallel.world_size,
    )


def _refuse_engine(vllm_config: Any) -> None:
    transfer = vllm_config.kv_transfer_config
    if transfer.kv_load_failure_policy != "recompute":
        raise RefusedError(
            f"kv_load_failure_policy={transfer.kv_load_failure_policy} would turn a lost cache entry into a failed "
            'request; remedy: set "kv_load_failure_policy":"recompute" in --kv-transfer-config'
        )
    parallel = vllm_config.parallel_config
    for name in ("prefill_context_parallel_size", "decode_context_parallel_size"):
        if getattr(parallel, name, 1) > 1:
            raise RefusedError(
                f"context parallelism ({name}={getattr(parallel, name)}) is not supported; remedy: set it to 1"
            )
    if getattr(vllm_config.model_config, "is_encoder_decoder", False):
        raise RefusedError(f"encoder-decoder models are not supported; {_OTHER_CACHE}")
    speculative = vllm_config.speculative_config
    if speculative is not None and speculative.method not in _DRAFTERS_WITHOUT_KV:
        raise RefusedError(
            f"speculative decoding by '{speculative.method}' keeps draft KV that the store's keys do not cover; remedy: "
            f"use one of {', '.join(_DRAFTERS_WITHOUT_KV)}, or none"
        )


def _only_group(kv_cache_config: Any) -> tuple[Any, list[str]]:
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        kinds = sorted({type(group.kv_cache_spec).__name__ for group in groups})
        raise RefusedError(
            f"{len(groups)} KV cache groups ({', '.join(kinds)}) are not supported, only one; {_OTHER_CACHE}"
        )
    group = groups[0]
    if group.is_eagle_group or group.host_resident:
        raise RefusedError(f"drafter and host-resident KV cache groups are not supported; {_OTHER_CACHE}")
    return group.kv_cache_spec, list(group.layer_names)


def _refuse_spec(spec: Any) -> None:
    kind = type(spec).__name__
    if kind != "FullAttentionSpec":
        raise RefusedError(f"attention of kind {kind} is not supported, only full attention is; {_OTHER_CACHE}")
    unsupported = {
        "a sliding window": spec.sliding_window is not None,
        "chunked local attention": spec.attention_chunk_size is not None,
        "non-causal attention": spec.non_causal,
        "different sizes of K and V heads": spec.head_size != spec.head_size_v,
        "padded KV pages (page_size_padded)": spec.page_size_padded is not None,
        "packed head slots": spec.num_head_slots not in (None, spec.num_kv_heads),
        "packed KV content": spec.state_content_bytes is not None,
        "compressed KV states": spec.tokens_per_state != 1,
        f"KV quantization {spec.kv_quant_mode.name}, whose scales change with the data": spec.kv_quant_mode.name
        not in ("NONE", "FP8_PER_TENSOR"),
    }
    for what, found in unsupported.items():
        if found:
            raise RefusedError(f"{what} is not supported; {_OTHER_CACHE}")
    if CHUNK_TOKENS % spec.block_size != 0:
        raise RefusedError(
            f"a block size of {spec.block_size} tokens does not divide a chunk of {CHUNK_TOKENS}; remedy: --block-size 16, "
            "32, 64, 128 or 256"
        )


def _dtype_name(vllm_config: Any, spec: Any) -> str:
    name = str(spec.dtype)
    if spec.kv_quant_mode.name == "FP8_PER_TENSOR":
        # vLLM may keep such caches as raw bytes; the configured type is the truth.
        name = "torch.float8_e5m2" if "e5m2" in vllm_config.cache_config.cache_dtype else "torch.float8_e4m3fn"
    if name not in _DTYPES:
        raise RefusedError(
            f"KV dtype {name} is not supported; remedy: --dtype bfloat16 or float16, --kv-cache-dtype auto"
        )
    return _DTYPES[name]


def first_head_of_rank(kv_heads: int, tp_size: int, tp_rank: int) -> int:
    """vLLM's rule: heads are split evenly; with fewer heads than ranks, neighbours hold copies."""
    if kv_heads >= tp_size:
        return tp_rank * (kv_heads // tp_size)
    return tp_rank * kv_heads // tp_size
