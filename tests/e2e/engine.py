"""A real vLLM engine in its own process, for tests, the demo and the long runs.

An engine takes tens of seconds to start, so it serves many scenarios: calls go over a pipe, requests run
side by side. The engine and all of its processes can be pinned to cores.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Answer:
    """One request's outcome: greedy tokens, the five best log-probabilities at each step."""

    tokens: list[int]
    logprobs: list[dict[int, float]]
    times: list[float]  # seconds from the call to each token
    cached: int  # prompt tokens that were not computed
    finish: str | None

    @property
    def first_token_s(self) -> float:
        return self.times[0]


@dataclass
class EngineOptions:
    model: Path
    data_plane: str | None = None  # None: plain vLLM, no connector
    connector: dict[str, Any] = field(default_factory=dict)  # further kv_connector_extra_config
    page_tokens: int = 128
    pages: int = 256
    max_model_len: int = 8192
    step_tokens: int = 2048
    max_requests: int = 32
    prefix_caching: bool = True
    hash_seed: str = "0"
    cores: Sequence[int] = ()
    connector_module: str = "shadowserve.connector"
    failure_policy: str = "recompute"
    embeddings: bool = False  # takes prompts as embeddings, too
    tensor_parallel: int = 1  # worker processes, each with its share of the heads


class Engine:
    """Start with `with Engine(options) as engine`. Thread-safe."""

    def __init__(self, options: EngineOptions, log: Path, start_timeout_s: float = 300) -> None:
        self.options = options
        self._folder = tempfile.TemporaryDirectory()
        self._listener = Listener(os.path.join(self._folder.name, "pipe"), family="AF_UNIX")
        self._numbers = itertools.count()
        self._futures: dict[int, Future[Any]] = {}
        self._progress: dict[str, Callable[[int], None]] = {}
        self._lock = threading.Lock()
        self._ready: Future[int] = Future()
        self._exited = threading.Event()
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = self._spawn()
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self._ready.result(start_timeout_s)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- calls ----------------------------------------------------------------------------------

    def submit(
        self,
        tokens: Sequence[int],
        max_tokens: int = 16,
        salt: str | None = None,
        request_id: str | None = None,
        on_tokens: Callable[[int], None] | None = None,
        skip_cache: bool = False,
        embedded: bool = False,
    ) -> Future[Answer]:
        """`on_tokens`: called from another thread with the number of tokens so far. `embedded`: the prompt
        goes in as the tokens' embeddings."""
        request_id = request_id or f"request-{next(self._numbers)}"
        if on_tokens is not None:
            self._progress[request_id] = on_tokens
        future = self._call(
            "generate",
            request_id=request_id,
            tokens=list(tokens),
            max_tokens=max_tokens,
            salt=salt,
            progress=on_tokens is not None,
            skip=skip_cache,
            embedded=embedded,
        )
        answer: Future[Answer] = Future()
        future.add_done_callback(lambda done: _convert(done, answer))
        return answer

    def generate(self, tokens: Sequence[int], max_tokens: int = 16, **arguments: Any) -> Answer:
        return self.submit(tokens, max_tokens, **arguments).result(300)

    @contextlib.contextmanager
    def running(self, tokens: Sequence[int], request_id: str) -> Iterator[None]:
        """A request that has its first token and goes on generating until the block ends."""
        started = threading.Event()
        future = self.submit(tokens, 2000, request_id=request_id, on_tokens=lambda _: started.set())
        future.add_done_callback(lambda _: started.set())
        started.wait(120)
        try:
            yield
        finally:
            self.abort(request_id)
            future.exception(60)

    def abort(self, request_id: str) -> None:
        self._call("abort", request_id=request_id).result(60)

    def worker(self, method: str, *arguments: Any) -> Any:
        """Calls a method of worker_probe.PageProbe in the worker, between two steps; in all of them when
        there are several, and returns the first one's answer."""
        return self.workers(method, *arguments)[0]

    def workers(self, method: str, *arguments: Any) -> list[Any]:
        """The same, and all answers, by rank."""
        return list(self._call("workers", method=method, arguments=list(arguments)).result(120))

    def preemptions(self) -> int:
        """Requests that were preempted since the start."""
        return int(self._call("preemptions").result(60))

    def reset_local_cache(self, connector: bool = False) -> bool:
        """Forgets the engine's own prefix cache, so that the next hit can only come from the store."""
        return bool(self._call("reset", connector=connector).result(60))

    def pin(self, cores: Sequence[int]) -> None:
        """Moves all threads of the engine's processes to these cores."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                session = int(stat.read_text().rpartition(")")[2].split()[3])
                if session == self._process.pid:
                    for task in (stat.parent / "task").iterdir():
                        os.sched_setaffinity(int(task.name), cores)

    def stop(self) -> None:
        if self._process.poll() is None:
            try:
                self._connection.send((-1, "stop", {}))
                self._process.wait(60)
            except (AttributeError, OSError, subprocess.TimeoutExpired):
                pass
        self.kill()

    def kill(self) -> None:
        """Ends the engine's whole process group at once, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.close()
        self._folder.cleanup()

    # --- inside ---------------------------------------------------------------------------------

    def _call(self, operation: str, /, **arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        number = next(self._numbers)
        self._futures[number] = future
        try:
            with self._lock:
                self._connection.send((number, operation, arguments))
        except OSError:
            self._fail_all()
        return future

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(Path(__file__).parent)]),
            "PYTHONHASHSEED": self.options.hash_seed,
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, len(self.options.cores) // self.options.tensor_parallel)),
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "INFO"),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        settings = {"cores": list(self.options.cores), "arguments": engine_arguments(self.options)}
        with open(self._log, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("engine_server.py")), str(self._listener.address)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(json.dumps(settings).encode())
        process.stdin.close()
        return process

    def _accept(self) -> None:
        try:
            self._connection = self._listener.accept()
            while True:
                number, error, result = self._connection.recv()
                self._deliver(number, error, result)
        except (EOFError, OSError):
            self._exited.wait(10)  # to tell the exit status; a pipe that breaks without an exit fails as well
            self._fail_all()

    def _deliver(self, number: int, error: str | None, result: Any) -> None:
        if number == -1:
            self._ready.set_result(result)
        elif number == -2:
            request_id, count = result
            if request_id in self._progress:
                self._progress[request_id](count)
        elif error is not None:
            self._futures.pop(number).set_exception(RuntimeError(error))
        else:
            self._futures.pop(number).set_result(result)

    def _watch(self) -> None:
        self._process.wait()
        self._exited.set()
        self._fail_all()

    def _fail_all(self) -> None:
        tail = self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""
        error = RuntimeError(f"the engine ended ({self._process.poll()}); {self._log}:\n{tail}")
        for future in [self._ready, *self._futures.values()]:
            if not future.done():
                future.set_exception(error)


def _convert(done: Future[Any], answer: Future[Answer]) -> None:
    error = done.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(Answer(**done.result()))


def engine_arguments(options: EngineOptions) -> dict[str, Any]:
    """Keyword arguments of vLLM's AsyncEngineArgs."""
    arguments: dict[str, Any] = {
        "model": str(options.model),
        "dtype": "bfloat16",
        "enforce_eager": True,
        "max_model_len": options.max_model_len,
        "block_size": options.page_tokens,
        "num_gpu_blocks_override": options.pages,
        "gpu_memory_utilization": 0.2,
        "max_num_batched_tokens": options.step_tokens,
        "max_num_seqs": options.max_requests,
        "enable_prefix_caching": options.prefix_caching,
        "tensor_parallel_size": options.tensor_parallel,
        "worker_extension_cls": "worker_probe.PageProbe",
        "seed": 0,
    }
    if options.embeddings:
        arguments["enable_prompt_embeds"] = True
    if options.data_plane is not None:
        arguments["kv_transfer_config"] = {
            "kv_connector": "ShadowServeConnector",
            "kv_connector_module_path": options.connector_module,
            "kv_role": "kv_both",
            "kv_load_failure_policy": options.failure_policy,
            "kv_connector_extra_config": {"data_plane": options.data_plane, **options.connector},
        }
    return arguments
