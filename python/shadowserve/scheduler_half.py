"""The half in the engine core: translates vLLM's hooks to KvManager and keeps the page references.

Two rules of the fencing live here (design: "Fencing"):
 * pages that a save reads, or that a late write of a failed load could still reach, are referenced in
   vLLM's block pool, so that nobody else gets them, until the manager releases them;
 * every load that vLLM waits for is reported exactly once, also when our own code fails.

Owner: the engine core's thread. Nothing here raises into vLLM after start (guard.py).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from shadowserve.config import CHUNK_TOKENS, SAVE_DEADLINE_S, ConnectorConfig
from shadowserve.fingerprint import Identity
from shadowserve.guard import Guard
from shadowserve.metadata import ShadowServeMetadata
from shadowserve.model_facts import ModelFacts

if TYPE_CHECKING:
    from shadowserve._core import KvManager

# Saves never take more of the engine's pages than this part, while requests run and when they finish.
_HELD_SHARE_RUNNING = 4
_HELD_SHARE_FINISHED = 2
# An idle engine goes on stepping at most this long to give pages back.
_LINGER_S = 2.0
_STATS_INTERVAL_S = 0.5


class BlockPool(Protocol):
    """Of vLLM: v1/core/block_pool.py."""

    blocks: list[Any]

    def touch(self, blocks: Sequence[Any]) -> None: ...
    def free_blocks(self, ordered_blocks: Any) -> None: ...


@dataclass(slots=True)
class _Tracked:
    request: Any
    lookup: bool
    save: bool
    asked_computed: int = 0  # local hit at the last ask: where a load starts
    local_hit: int = 0  # tokens found in the engine's own cache when it was last scheduled anew
    chunks_offered: int = 0  # chunks already given to begin_saves
    chunks_keyed: int = 0  # chunks whose keys the manager has


def manager_options(
    config: ConnectorConfig, facts: ModelFacts, engine_id: str, root: bytes, *, save: bool, early_write: bool
) -> dict[str, object]:
    """What KvManager wants to know (_core.pyi)."""
    return {
        **config.data_plane_options(),
        "engine_id": engine_id,
        "root": root,
        "layers": facts.layers,
        "kv_heads": facts.kv_heads,
        "head_dim": facts.head_dim,
        "dtype": facts.dtype,
        "page_tokens": facts.page_tokens,
        "world_size": facts.world_size,
        "profile": config.profile,
        "lookup_timeout_s": config.lookup_timeout_s,
        "fetch_deadline_s": config.fetch_deadline_s,
        "save_deadline_s": SAVE_DEADLINE_S,
        "min_hit_tokens": config.min_hit_tokens,
        "save": save,
        "early_write": early_write,
        # Loading requests hold their pages and cannot be preempted: leave a quarter to the others.
        "max_load_tokens": max(CHUNK_TOKENS, facts.page_count * facts.page_tokens * 3 // 4),
    }


class SchedulerHalf:
    """One per engine."""

    def __init__(
        self,
        manager: KvManager,
        identity: Identity,
        config: ConnectorConfig,
        facts: ModelFacts,
        logger: logging.Logger,
        *,
        load: bool = True,
        save: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._identity = identity
        self._config = config
        self._facts = facts
        self._load = load
        self._save = save and config.save
        self._clock = clock
        self._guard = Guard(logger, clock)
        self._pool: BlockPool | None = None
        self._requests: dict[str, _Tracked] = {}
        self._loads: dict[str, list[int]] = {}  # request id -> its pages, until the report
        self._new_loads: list[str] = []  # since the last metadata
        self._failed_once: set[str] = set()
        self._failed_loads: list[str] = []  # never reached the data plane
        self._held: Counter[int] = Counter()  # references that we took, by page
        self._quarantined: Counter[int] = Counter()  # those of them for failed loads
        self._last_hold = float("-inf")
        self._last_stats = float("-inf")
        self._dropped_chunks = 0

    # --- requests -------------------------------------------------------------------------------

    def bind_block_pool(self, pool: BlockPool) -> None:
        self._pool = pool

    def on_new_request(self, request: Any) -> None:
        self._guard.run("on_new_request", lambda: self._add(request), None)

    def _add(self, request: Any) -> None:
        self._release()
        parts = self._identity.parts(request)
        if parts is None:
            return
        tokens = request.prompt_token_ids
        salt = (request.cache_salt or "").encode()
        self._manager.add_request(request.request_id, tokens, self._identity.extras(request), parts, salt)
        lookup = self._load and not request.skip_reading_prefix_cache
        self._requests[request.request_id] = _Tracked(
            request, lookup, self._save, chunks_keyed=len(tokens) // CHUNK_TOKENS
        )

    def matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        """(tokens beyond `computed`, asynchronous); (None, False) = ask again in the next step."""
        nothing: tuple[int | None, bool] = (0, False)
        return self._guard.run("get_num_new_matched_tokens", lambda: self._match(request, computed), nothing)

    def _match(self, request: Any, computed: int) -> tuple[int | None, bool]:
        request_id = request.request_id
        tracked = self._requests.get(request_id)
        if tracked is not None:
            tracked.local_hit = computed
        self._release()
        # A request whose load failed once is computed: "hit" again would load and fail for ever.
        if tracked is None or not tracked.lookup or request_id in self._failed_once:
            return 0, False
        if self._pool is None:
            return 0, False  # failed loads could not be fenced
        matched = self._manager.matched_tokens(request_id, computed)
        if matched is None:
            return None, False
        # At least one token is left to compute: the engine needs its logits.
        end = min(computed + matched, (request.num_tokens - 1) // CHUNK_TOKENS * CHUNK_TOKENS)
        if end <= computed:
            return 0, False
        tracked.asked_computed = computed
        return end - computed, True

    def allocated(self, request: Any, blocks: Any, external: int) -> None:
        """`external` alone decides: after a load vLLM calls again with 0."""
        if external <= 0:
            return
        request_id = request.request_id
        pages = list(blocks.get_block_ids()[0])
        self._loads[request_id] = pages
        if self._guard.run("update_state_after_alloc", lambda: self._begin(request_id, pages, external), False):
            self._new_loads.append(request_id)
        else:
            self._failed_loads.append(request_id)

    def _begin(self, request_id: str, pages: list[int], external: int) -> bool:
        self._manager.begin_load(request_id, pages, self._requests[request_id].asked_computed, external)
        return True

    # --- steps ----------------------------------------------------------------------------------

    def step_metadata(self, scheduler_output: Any) -> ShadowServeMetadata:
        self._guard.run("build_connector_meta", lambda: self._save_computed(scheduler_output), None)
        payload = self._guard.run("metadata", self._manager.metadata, None)
        if payload is None:  # the workers will never hear of these
            self._failed_loads += self._new_loads
            payload = b""
        metadata = ShadowServeMetadata(payload, scheduler_output.total_num_scheduled_tokens, tuple(self._failed_loads))
        self._new_loads.clear()
        self._failed_loads.clear()
        return metadata

    def _save_computed(self, scheduler_output: Any) -> None:
        self._release()
        if not self._save:
            return
        block_state = scheduler_output.kv_connector_block_state
        queued = False
        for request_id in scheduler_output.num_scheduled_tokens:
            tracked = self._requests.get(request_id)
            if tracked is None or not tracked.save or request_id in self._loads:
                continue
            chunks = self._computed_chunks(tracked)
            if chunks <= tracked.chunks_offered:
                continue
            tables = block_state.get_block_ids(request_id)
            if tables is not None:
                queued |= self._offer(tracked, chunks, tables[0], self._facts.page_count // _HELD_SHARE_RUNNING)
        if queued:
            self._manager.flush()

    def _computed_chunks(self, tracked: _Tracked) -> int:
        """Whole chunks whose KV is surely in the pages: steps in flight are not counted.

        vLLM lets a request hit pages that another one computes in the same step, or in one in flight. They
        are sure when a step of its own is over: the first token beyond its hit is computed."""
        request = tracked.request
        computed = max(0, request.num_computed_tokens - request.num_in_flight_tokens)
        if computed <= tracked.local_hit:
            return 0
        limit = request.num_tokens if self._config.save_decode else request.num_prompt_tokens
        return int(min(computed, limit)) // CHUNK_TOKENS

    def _offer(self, tracked: _Tracked, chunks: int, pages: Sequence[int], page_limit: int) -> bool:
        """Gives chunks up to `chunks` to the manager, as far as the page limit allows, and holds their
        pages. True when flush() is due."""
        room = (page_limit - self._held_for_saves()) * self._facts.page_tokens // CHUNK_TOKENS
        chunks = min(chunks, tracked.chunks_offered + max(0, room))
        if chunks <= tracked.chunks_offered:
            return False
        request = tracked.request
        if chunks > tracked.chunks_keyed:
            self._manager.extend_request(request.request_id, list(request.all_token_ids))
            tracked.chunks_keyed = request.num_tokens // CHUNK_TOKENS
        hold = self._manager.begin_saves(request.request_id, chunks * CHUNK_TOKENS, list(pages))
        tracked.chunks_offered = chunks
        if not self._config.save_decode and not self._manager.unsaved(request.request_id):
            tracked.save = False
        if not hold:
            return False
        self._hold(hold)
        return True

    def worker_reported(self, output: Any) -> None:
        """Before vLLM acts on the reports: it frees the pages of failed and aborted loads right after."""
        failed = output.failed_recving or ()
        for request_id in output.finished_recving or ():
            self._load_over(request_id, request_id in failed)
        self._guard.run("update_connector_output", self._release, None)

    def _load_over(self, request_id: str, failed: bool) -> None:
        pages = self._loads.pop(request_id, [])
        if failed and request_id in self._requests:
            self._failed_once.add(request_id)
        # Should the manager fail to say which pages a write can still reach, all of them are kept.
        reachable = self._guard.run(
            "load_finished", lambda: self._manager.load_finished(request_id, failed), pages if failed else []
        )
        self._hold(reachable)
        self._quarantined.update(reachable)

    def finished(self, request: Any, pages: Sequence[int]) -> None:
        """vLLM frees the pages after this, or, when a load is in flight, after its report."""
        request_id = request.request_id
        tracked = self._requests.pop(request_id, None)
        self._failed_once.discard(request_id)
        if request_id in self._loads:
            self._cancel(request_id)
        elif tracked is not None and tracked.save:
            self._guard.run("request_finished", lambda: self._save_rest(tracked, pages), None)
        if tracked is not None:
            self._guard.run("finish_request", lambda: self._manager.finish_request(request_id), None)

    def _cancel(self, request_id: str) -> None:
        self._guard.run("cancel_load", lambda: self._manager.cancel_load(request_id), False)

    def _save_rest(self, tracked: _Tracked, pages: Sequence[int]) -> None:
        self._release()
        chunks = self._computed_chunks(tracked)
        if chunks <= tracked.chunks_offered:
            return
        if self._offer(tracked, chunks, pages, self._facts.page_count // _HELD_SHARE_FINISHED):
            self._manager.flush()
        self._dropped_chunks += chunks - tracked.chunks_offered

    # --- page references ------------------------------------------------------------------------

    def _hold(self, pages: Sequence[int]) -> None:
        if self._pool is None or not pages:
            return
        self._pool.touch([self._pool.blocks[page] for page in pages])
        self._held.update(pages)
        self._last_hold = self._clock()

    def _release(self) -> None:
        if self._pool is None:
            return
        free = []
        for page in self._manager.take_releases():
            if self._held[page] > 0:  # never drop a reference that is not ours
                free.append(self._pool.blocks[page])
                _decrement(self._held, page)
                _decrement(self._quarantined, page)
        if free:
            self._pool.free_blocks(free)

    def _held_for_saves(self) -> int:
        return len(self._held) - len(self._quarantined)

    # --- the rest -------------------------------------------------------------------------------

    def wants_steps(self) -> bool:
        """True for a moment after pages were last held, so that an idle engine gives them back. vLLM asks
        also after each call from outside: later releases are taken then, without any step."""
        if not self._held:
            return False
        self._guard.run("has_pending_push_work", self._release, None)
        return bool(self._held) and self._clock() - self._last_hold < _LINGER_S

    def reset_cache(self) -> bool:
        """Weights may have changed: what is known of running requests must neither hit nor be saved, and
        loads in flight are given up, so that they are computed anew."""
        for request_id in list(self._loads):
            self._cancel(request_id)
        for tracked in self._requests.values():
            tracked.lookup = False
            tracked.save = False
        return self._guard.run("reset_cache", self._new_namespace, False)

    def _new_namespace(self) -> bool:
        self._release()
        self._manager.new_namespace()
        return True

    def stats(self) -> dict[str, int]:
        now = self._clock()
        if now - self._last_stats < _STATS_INTERVAL_S:
            return {}
        self._last_stats = now
        nothing: dict[str, int] = {}
        counts = dict(self._guard.run("stats", self._manager.stats, nothing))
        counts["saves_dropped"] = counts.get("saves_dropped", 0) + self._dropped_chunks
        self._dropped_chunks = 0
        counts["held_pages"] = len(self._held)
        return counts

    def close(self) -> None:
        self._guard.run("shutdown", self._manager.close, None)


def _decrement(counter: Counter[int], page: int) -> None:
    if counter[page] > 1:
        counter[page] -= 1
    else:
        del counter[page]
