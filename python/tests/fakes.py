"""Stand-ins for vLLM's objects and for the control plane, as far as the connector touches them."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

PAGE_TOKENS = 128
CHUNK_TOKENS = 256


class FakeBlockPool:
    """Reference counts as in vLLM's BlockPool; freeing what nobody holds is an error, as there."""

    def __init__(self, count: int) -> None:
        self.blocks = [SimpleNamespace(block_id=index, ref_cnt=0) for index in range(count)]

    def touch(self, blocks: Any) -> None:
        for block in blocks:
            block.ref_cnt += 1

    def free_blocks(self, ordered_blocks: Any) -> None:
        for block in ordered_blocks:
            assert block.ref_cnt > 0, f"page {block.block_id} freed twice"
            block.ref_cnt -= 1

    def references(self) -> dict[int, int]:
        return {block.block_id: block.ref_cnt for block in self.blocks if block.ref_cnt}


class FakeManager:
    """KvManager of _core.pyi: answers are set by the test, calls are recorded."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, int | None] = {}
        self.quarantine: dict[str, list[int]] = {}
        self.releases: list[int] = []
        self.broken: set[str] = set()
        self.saved: Counter[str] = Counter()
        self.keyed: dict[str, int] = {}
        self.pending_metadata = b""

    def _call(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if name in self.broken:
            raise RuntimeError(f"{name} is broken")

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    def add_request(self, request_id: str, tokens: Any, extras: Any, parts: Any, salt: bytes) -> None:
        self._call("add_request", request_id, len(tokens), list(extras), list(parts), salt)
        self.keyed[request_id] = len(tokens) // CHUNK_TOKENS

    def extend_request(self, request_id: str, tokens: Any) -> None:
        self._call("extend_request", request_id, len(tokens))
        self.keyed[request_id] = len(tokens) // CHUNK_TOKENS

    def matched_tokens(self, request_id: str, computed: int) -> int | None:
        self._call("matched_tokens", request_id, computed)
        end = self.answers.get(request_id, 0)
        return None if end is None else max(0, end - computed)

    def begin_load(self, request_id: str, pages: Any, computed: int, external: int) -> None:
        self._call("begin_load", request_id, list(pages), computed, external)
        self.pending_metadata += request_id.encode()

    def cancel_load(self, request_id: str) -> bool:
        self._call("cancel_load", request_id)
        return True

    def load_finished(self, request_id: str, failed: bool) -> list[int]:
        self._call("load_finished", request_id, failed)
        return self.quarantine.get(request_id, [])

    def begin_saves(self, request_id: str, computed: int, pages: Any) -> list[int]:
        self._call("begin_saves", request_id, computed, list(pages))
        per_chunk = CHUNK_TOKENS // PAGE_TOKENS
        first, last = self.saved[request_id], computed // CHUNK_TOKENS
        self.saved[request_id] = max(first, last)
        return list(pages[first * per_chunk : last * per_chunk])

    def unsaved(self, request_id: str) -> bool:
        return self.saved[request_id] < self.keyed[request_id]

    def flush(self) -> None:
        self._call("flush")

    def take_releases(self) -> list[int]:
        self._call("take_releases")
        releases, self.releases = self.releases, []
        return releases

    def finish_request(self, request_id: str) -> None:
        self._call("finish_request", request_id)

    def new_namespace(self) -> None:
        self._call("new_namespace")

    def metadata(self) -> bytes:
        self._call("metadata")
        metadata, self.pending_metadata = self.pending_metadata, b""
        return metadata

    def stats(self) -> dict[str, int]:
        self._call("stats")
        return {"loads_ok": 1, "quarantined_pages": 0}

    def close(self) -> None:
        self._call("close")


class FakeWorker:
    """KvWorker of _core.pyi."""

    def __init__(self) -> None:
        self.waits: list[int] = []
        self.steps: list[bytes] = []
        self.results: list[tuple[list[str], list[str]]] = []
        self.loads_pending = 0
        self.broken = False

    def begin_step(self, metadata: bytes) -> None:
        self.steps.append(metadata)

    def poll(self, wait_us: int) -> tuple[list[str], list[str]]:
        if self.broken:
            raise RuntimeError("poll is broken")
        self.waits.append(wait_us)
        return self.results.pop(0) if self.results else ([], [])

    def pending(self) -> int:
        return self.loads_pending

    def stats(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


def make_request(request_id: str = "r", prompt_tokens: int = 1000, **overrides: Any) -> SimpleNamespace:
    tokens = list(range(prompt_tokens))
    fields: dict[str, Any] = {
        "request_id": request_id,
        "prompt_token_ids": tokens,
        "all_token_ids": tokens,
        "num_tokens": prompt_tokens,
        "num_prompt_tokens": prompt_tokens,
        "num_computed_tokens": 0,
        "num_in_flight_tokens": 0,
        "prompt_embeds": None,
        "prompt_is_token_ids": None,
        "lora_request": None,
        "mm_features": [],
        "cache_salt": None,
        "resumable": False,
        "skip_reading_prefix_cache": False,
    }
    return SimpleNamespace(**(fields | overrides))


def table(pages: list[int]) -> SimpleNamespace:
    return SimpleNamespace(get_block_ids=lambda: (pages,))


def step(scheduled: dict[str, int] | None = None, pages: dict[str, list[int]] | None = None) -> SimpleNamespace:
    scheduled, pages = scheduled or {}, pages or {}
    state = SimpleNamespace(get_block_ids=lambda name: (pages[name],) if name in pages else None)
    return SimpleNamespace(
        num_scheduled_tokens=scheduled,
        total_num_scheduled_tokens=sum(scheduled.values()),
        kv_connector_block_state=state,
    )


def reports(received: set[str], failed: set[str] | None = None) -> SimpleNamespace:
    return SimpleNamespace(finished_recving=received, failed_recving=failed or set())
