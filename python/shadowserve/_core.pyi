"""The control plane in C++ (src/client), as the connector sees it.

Scheduler half: KvManager. Worker half: KvWorker. Both reconnect by themselves for as long as they live,
never block for longer than the waits named here, never raise for anything that the data plane or the
store does after start, and release the GIL while they wait. Not thread-safe: one owner thread each.
"""

from collections.abc import Mapping, Sequence

__version__: str

class Refused(RuntimeError):
    """Options, model or layout can never work; the message names what and the remedy."""

def fingerprint_files(paths: Sequence[str], cache_file: str | None = None) -> bytes:
    """SHA-256 over the contents of files, in the given order (32 bytes).

    Digests of single files are cached in `cache_file` by device, inode, size and mtime.
    Raises Refused naming the file that cannot be read.
    """

def root_key(parts: Sequence[bytes]) -> bytes:
    """format/chunk_key.h RootKey: 32 bytes over length-prefixed parts."""

def host_cpu_form() -> str:
    """Which cell form vLLM's CPU attention uses on this machine's processor is decided in Python; this
    only tells the architecture: "x86_64" or "aarch64"."""

class KvManager:
    """lookup -> fetching queue -> completion queue, quarantine, saves. Lives in the engine core."""

    def __init__(self, options: Mapping[str, object]) -> None:
        """Keys, all required: data_plane (str: unix:///path or tcp://host:port), tls_ca_file, tls_cert_file,
        tls_key_file (str: PEM files, for tcp; "" = no TLS), engine_id (str),
        root (bytes, 32: model fingerprint and KV semantics), layers, kv_heads, head_dim (int),
        dtype (str), page_tokens (int), world_size (int), profile (str, "" = daemon's default),
        lookup_timeout_s, fetch_deadline_s, save_deadline_s (float), min_hit_tokens (int),
        save (bool), early_write (bool: pages may be written as soon as they are allocated),
        max_load_tokens (int: tokens in flight over all loads; beyond it lookups answer 0).
        Raises Refused naming the bad key. Starts connecting in the background.
        """
    epoch: int
    def wait_ready(self, timeout_s: float) -> bool:
        """True when the data plane accepted the session; False when it cannot be reached in time (it is
        tried again in the background). Raises Refused when it refused."""
    def add_request(
        self,
        request_id: str,
        tokens: Sequence[int],
        extras: Sequence[tuple[int, bytes]],
        parts: Sequence[bytes],
        salt: bytes,
    ) -> None:
        """Computes the prompt's chunk keys and starts the lookup. `parts`: request-wide identity (salt,
        LoRA digest), hashed into the request's root. `extras`: (token position, bytes) items that enter
        the chain at the chunk holding that position. `salt`: the cache salt, b"" for none; its digest tells
        the data plane whose quota the saves are counted to. tokens: prompt token ids (< 2**32).
        Prompts below min_hit_tokens get keys (for saves) but are not looked up. Idempotent by id."""
    def matched_tokens(self, request_id: str, computed_tokens: int) -> int | None:
        """Tokens beyond computed_tokens that the store holds (whole chunks), 0, or None = ask again later.
        The first ask may wait <= 300 us for the reply, never while the data plane is unhealthy. 0 after
        lookup_timeout_s, after a failed load of this request, for an unknown id, when too many tokens
        are in flight."""
    def begin_load(self, request_id: str, page_ids: Sequence[int], computed_tokens: int, external_tokens: int) -> None:
        """The request's pages are allocated (its whole page table): start the fetch of tokens
        [computed_tokens, computed_tokens + external_tokens). A new attempt."""
    def cancel_load(self, request_id: str) -> bool:
        """Aborted while loading: write no more pages. True when a load was in flight."""
    def loading(self, request_id: str) -> bool: ...
    def load_finished(self, request_id: str, failed: bool) -> list[int]:
        """The worker half reported this id. Returns page ids that the caller must hold (one reference
        each) *before* vLLM acts on the report: pages a late write could still reach. [] when drained.
        They come back from take_releases()."""
    def begin_saves(self, request_id: str, computed_tokens: int, page_ids: Sequence[int]) -> list[int]:
        """Chunks of the request that are computed and not yet saved (by this request) are queued for
        saving. Returns page ids to hold, one reference per occurrence; flush() then sends. Bounded: past
        the bound chunks are dropped and counted."""
    def unsaved(self, request_id: str) -> bool:
        """False when begin_saves can never again return pages for this request."""
    def extend_request(self, request_id: str, tokens: Sequence[int]) -> None:
        """save_decode: `tokens` = all token ids so far; keys of newly complete chunks are appended."""
    def flush(self) -> None:
        """Sends what begin_saves queued: call after holding the pages."""
    def take_releases(self) -> list[int]:
        """Page ids whose references (from load_finished or begin_saves) the caller drops now."""
    def held_pages(self) -> int: ...
    def finish_request(self, request_id: str) -> None:
        """The request is over; its keys may go (loads and saves in flight live on)."""
    def new_namespace(self) -> None:
        """reset_cache: keys of requests added from now on share nothing with earlier ones."""
    def metadata(self) -> bytes:
        """For this step's worker halves: epoch, new attempts with their request ids, attempts that
        failed on this side. Drains. b"" when there is nothing to tell."""
    def healthy(self) -> bool: ...
    def stats(self) -> dict[str, int]:
        """Counts since the last call: lookups_hit, lookups_miss, lookups_timeout, loads_ok,
        loads_failed, load_tokens, saves_stored, saves_present, saves_dropped, quarantined_pages
        (the current number), reconnects."""
    def close(self) -> None: ...

class KvWorker:
    """Registration, grants and completions of one rank. Lives in the worker process."""

    def __init__(self, options: Mapping[str, object]) -> None:
        """Keys, all required: data_plane, tls_ca_file, tls_cert_file, tls_key_file, engine_id (str), rank, world_size (int), layers, kv_heads,
        head_dim (int: the model's), dtype (str), devices (list[str]: export kinds in order of
        preference, e.g. ["mapped", "process_vm"]), fetch_deadline_s (float)."""
    def register(self, address: int, nbytes: int, layout: Mapping[str, object]) -> str:
        """Exports the KV memory and registers it. `layout`: page_tokens, page_count, first_layer,
        layer_offset (list), first_head, heads, head_dim, page_stride, head_stride, k and v (each a
        tuple offset, token_stride, dim_stride), in bytes, relative to `address`. Call once, while nothing
        else writes the memory. Waits <= 5 s for the first answer. Returns the device kind in use, or ""
        when the data plane cannot be reached yet (retried in the background). Raises Refused when the
        data plane or the export refuses, with the remedy."""
    def begin_step(self, metadata: bytes) -> None:
        """start_load_kv: expects and grants the attempts named in the metadata (b"" is fine)."""
    def poll(self, wait_us: int) -> tuple[list[str], list[str]]:
        """(received, failed) request ids, each exactly once per attempt, failed ones not in received.
        Waits up to wait_us for the first when loads are pending and none has finished. A load that is
        over its deadline or whose session broke is failed here."""
    def pending(self) -> int: ...
    def stats(self) -> dict[str, int]: ...
    def close(self) -> None: ...
