"""Mixed into vLLM's worker by --worker-extension-cls: reads and damages KV pages between two steps."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import torch

# Different noise in this many pages, then again the same: it is filled in very often.
_NOISE_PAGES = 7


class PageProbe:
    """Methods for collective_rpc. `model_runner` is the worker's."""

    model_runner: Any

    def request_pages(self, request_id: str) -> list[int]:
        """Page table of a running request, by the beginning of vLLM's internal id."""
        for name, state in self.model_runner.requests.items():
            if name.startswith(request_id):
                return list(state.block_ids[0])
        raise KeyError(f"no running request {request_id}")

    def canonical_digests(self, request_id: str, tokens: int, head_dim: int) -> list[str]:
        """SHA-256 of each 256-token chunk's KV in [layer][head][K|V][token][dim]: the same bytes whatever
        the page size."""
        whole = self._canonical(request_id, tokens, head_dim)
        return [
            hashlib.sha256(whole[:, :, :, start : start + 256].contiguous().numpy().tobytes()).hexdigest()
            for start in range(0, tokens - tokens % 256, 256)
        ]

    def canonical_values(self, request_id: str, tokens: int, head_dim: int) -> bytes:
        """The first tokens' bf16 values in [layer][head][K|V][token][dim]."""
        return bytes(self._canonical(request_id, tokens, head_dim)[:, :, :, :tokens].contiguous().numpy().tobytes())

    def _canonical(self, request_id: str, tokens: int, head_dim: int) -> torch.Tensor:
        """Whole pages, as int16. vLLM's x86 CPU form: per (page, head) a K plane [D][N], then a V plane [N][D]."""
        pages = self.request_pages(request_id)
        layers = []
        for cache in self.model_runner.kv_caches:
            heads, page_tokens = cache.shape[1], cache.shape[2]
            cells = cache[pages[: (tokens + page_tokens - 1) // page_tokens]].contiguous()
            cells = cells.view(-1, heads, 2, page_tokens * head_dim)
            keys = cells[:, :, 0].reshape(-1, heads, head_dim, page_tokens).permute(1, 0, 3, 2)
            values = cells[:, :, 1].reshape(-1, heads, page_tokens, head_dim).permute(1, 0, 2, 3)
            layers.append(torch.stack([plane.reshape(heads, -1, head_dim) for plane in (keys, values)], dim=1))
        return torch.stack(layers).view(torch.int16)

    def page_digests(self) -> list[int]:
        """CRC of each page of the whole memory, over all layers."""
        return [
            zlib.crc32(
                b"".join(cache[page].view(torch.int16).numpy().tobytes() for cache in self.model_runner.kv_caches)
            )
            for page in range(self.model_runner.kv_caches[0].shape[0])
        ]

    def damage(self, page_ids: list[int]) -> None:
        """Writes noise of the data's own size over whole pages, in all layers."""
        generator = torch.Generator().manual_seed(1)
        for cache in self.model_runner.kv_caches:
            for page in page_ids:
                cell = cache[page]
                cell.copy_(torch.randn(cell.shape, generator=generator).to(cell.dtype) * cell.float().std())

    def fill_free_memory_with_noise(self) -> None:
        """After this a page that nobody writes cannot be right by luck. Call while no request runs."""
        generator = torch.Generator().manual_seed(2)
        for cache in self.model_runner.kv_caches:
            pages = cache[1:]
            some = pages[:_NOISE_PAGES]
            noise = torch.randn(some.shape, generator=generator) * (float(some.float().std()) or 1.0)
            for start in range(0, len(pages), len(some)):
                part = pages[start : start + len(some)]
                part.copy_(noise[: len(part)].to(cache.dtype))
