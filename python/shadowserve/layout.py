"""Where vLLM keeps KV bytes: from tensors and strides to the descriptor that the data plane maps.

A (block, head) cell has one of two known forms, and the tensor's view tells which only on GPUs:
 * "rows": [K|V] per token; the view's strides are the truth;
 * "cpu-vec": vLLM's CPU attention on x86 without AMX keeps, per cell, a K plane [D][N] and a V plane
   [N][D], whatever the view says (vllm/v1/attention/backends/cpu_attn.py).
Any other form is refused by name. All numbers are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shadowserve.config import RefusedError

ROWS = "rows"
CPU_VEC = "cpu-vec"


class CacheView(Protocol):
    """What is used of a layer's KV tensor of shape [blocks, heads, tokens, K then V]."""

    shape: Sequence[int]

    def stride(self) -> Sequence[int]: ...
    def data_ptr(self) -> int: ...
    def element_size(self) -> int: ...


@dataclass(frozen=True)
class RankSlice:
    """What this rank holds of the model."""

    first_layer: int
    first_head: int
    heads: int
    head_dim: int
    page_tokens: int
    page_count: int


def cell_form(device_type: str, cpu_isa: str | None) -> str:
    """`cpu_isa`: what vLLM's CPU attention chose (`_get_attn_isa`), None elsewhere."""
    if device_type != "cpu":
        return ROWS
    if cpu_isa == "vec":
        return CPU_VEC
    raise RefusedError(
        f"the KV cell form of CPU attention '{cpu_isa}' is not mapped, only 'vec' is (x86 without AMX, head size a "
        "multiple of 32); remedy: another --dtype or --block-size for which vLLM chooses 'vec', or another processor"
    )


def describe_pages(
    form: str, base: int, nbytes: int, layers: Sequence[CacheView], rank: RankSlice
) -> dict[str, object]:
    """`layers` in the model's order; `base`, `nbytes`: the one storage under all of them."""
    first = layers[0]
    element = first.element_size()
    blocks, heads, tokens, content = first.shape
    expected = (rank.page_count, rank.heads, rank.page_tokens, 2 * rank.head_dim)
    if (blocks, heads, tokens, content) != expected:
        raise RefusedError(
            f"KV tensors have shape {(blocks, heads, tokens, content)}, expected {expected} (blocks, heads, tokens, "
            "K and V); kernel blocks smaller than --block-size and packed caches are not mapped"
        )
    strides = [step * element for step in first.stride()]
    for layer in layers:
        if tuple(layer.shape) != tuple(first.shape) or tuple(layer.stride()) != tuple(first.stride()):
            raise RefusedError("KV tensors of different layers differ in shape or strides; such models are not mapped")
    page_stride, head_stride, token_stride, dim_stride = strides
    if dim_stride != element:
        raise RefusedError(f"KV rows are not contiguous (stride {dim_stride} bytes); this layout is not mapped")
    offsets = [layer.data_ptr() - base for layer in layers]
    end = max(offsets) + (blocks - 1) * page_stride + (heads - 1) * head_stride + (tokens - 1) * token_stride
    if min(offsets) < 0 or end + content * element > nbytes:
        raise RefusedError("KV tensors of different layers do not share one storage; such an allocation is not mapped")
    k, v = _planes(form, rank, element, token_stride)
    return {
        "page_tokens": rank.page_tokens,
        "page_count": rank.page_count,
        "first_layer": rank.first_layer,
        "layer_offset": offsets,
        "first_head": rank.first_head,
        "heads": rank.heads,
        "head_dim": rank.head_dim,
        "page_stride": page_stride,
        "head_stride": head_stride,
        "k": k,
        "v": v,
    }


def _planes(
    form: str, rank: RankSlice, element: int, token_stride: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(offset, token stride, dim stride) of K and of V within a cell."""
    row = rank.head_dim * element
    if form == ROWS:
        return (0, token_stride, element), (row, token_stride, element)
    if form != CPU_VEC:
        raise RefusedError(f"KV cell form '{form}' is not mapped")
    if token_stride != 2 * row:
        raise RefusedError(f"CPU attention needs contiguous cells, these have a token stride of {token_stride} bytes")
    return (0, element, rank.page_tokens * element), (rank.page_tokens * row, row, element)


def layers_in_order(names: Mapping[str, Any], indices: Mapping[str, int]) -> list[str]:
    """Layer names sorted by their index in the model."""
    return sorted(names, key=lambda name: indices[name])
