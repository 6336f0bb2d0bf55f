"""The process that owns one vLLM engine: serves calls over a pipe, many at a time.

Started by engine.py as `python engine_server.py ADDRESS` with the engine's arguments as JSON on standard
input. Messages are (call number, method, arguments) and (call number, error or None, result).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from multiprocessing.connection import Client
from typing import Any

# Tensor-parallel ranks wait for each other in sched_yield. Where they share cores with others, Linux 6.18 then lets
# whoever wakes up wait for more than a second, a data plane's threads as well. vLLM's own processes have
# it too: they are forked.
os.sched_yield = lambda: time.sleep(0)


class Server:
    def __init__(self, address: str, arguments: dict[str, Any]) -> None:
        self._connection = Client(address, family="AF_UNIX")
        self._arguments = arguments
        self._preemptions = 0

    async def run(self) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.metrics.loggers import StatLoggerBase

        server = self

        class Counter(StatLoggerBase):
            """Counts what no answer tells."""

            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                pass

            def record(
                self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
            ) -> None:
                if iteration_stats is not None:
                    server._preemptions += iteration_stats.num_preempted_reqs

            def log_engine_initialized(self) -> None:
                pass

        config = AsyncEngineArgs(**self._arguments).create_engine_config()
        # vLLM's CPU platform has just set `spawn`, and each of its processes would import everything again.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        self._engine = AsyncLLM.from_vllm_config(config, stat_loggers=[Counter])
        loop = asyncio.get_running_loop()
        self._send(-1, None, os.getpid())
        tasks: set[asyncio.Task[None]] = set()
        while True:
            try:
                number, method, arguments = await loop.run_in_executor(None, self._connection.recv)
            except (EOFError, OSError):
                break
            if method == "stop":
                break
            task = asyncio.create_task(self._answer(number, method, arguments))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        self._engine.shutdown()

    async def _answer(self, number: int, method: str, arguments: dict[str, Any]) -> None:
        try:
            self._send(number, None, await getattr(self, f"do_{method}")(**arguments))
        except BaseException:
            self._send(number, traceback.format_exc(), None)

    def _send(self, number: int, error: str | None, result: Any) -> None:
        self._connection.send((number, error, result))

    async def do_generate(
        self,
        request_id: str,
        tokens: list[int],
        max_tokens: int,
        salt: str | None,
        progress: bool,
        skip: bool,
        embedded: bool,
    ) -> dict[str, Any]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt: dict[str, Any] = {"prompt_embeds": self._embed(tokens)} if embedded else {"prompt_token_ids": tokens}
        if salt is not None:
            prompt["cache_salt"] = salt
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            ignore_eos=True,
            logprobs=5,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            skip_reading_prefix_cache=skip or None,
        )
        answer: dict[str, Any] = {"tokens": [], "logprobs": [], "times": [], "cached": 0, "finish": None}
        start = time.perf_counter()
        async for output in self._engine.generate(prompt, sampling, request_id):
            now = time.perf_counter() - start
            completion = output.outputs[0]
            answer["tokens"] += list(completion.token_ids)
            answer["times"] += [now] * len(completion.token_ids)
            for entry in completion.logprobs or ():
                answer["logprobs"].append({token: value.logprob for token, value in entry.items()})
            answer["cached"] = output.num_cached_tokens or 0
            answer["finish"] = completion.finish_reason
            if progress:
                self._send(-2, None, (request_id, len(answer["tokens"])))
        return answer

    def _embed(self, tokens: list[int]) -> Any:
        """The model's own embeddings of these tokens."""
        import torch
        from safetensors import safe_open

        with safe_open(os.path.join(self._arguments["model"], "model.safetensors"), "pt") as weights:
            return weights.get_tensor("model.embed_tokens.weight")[torch.tensor(tokens)]

    async def do_preemptions(self) -> int:
        return self._preemptions

    async def do_abort(self, request_id: str) -> None:
        await self._engine.abort(request_id)

    async def do_workers(self, method: str, arguments: list[Any]) -> list[Any]:
        return list(await self._engine.collective_rpc(method, args=tuple(arguments)))

    async def do_reset(self, connector: bool) -> bool:
        return bool(await self._engine.reset_prefix_cache(reset_connector=connector))


def main() -> None:
    settings = json.load(sys.stdin)
    if settings["cores"]:
        os.sched_setaffinity(0, settings["cores"])
    asyncio.run(Server(sys.argv[1], settings["arguments"]).run())


if __name__ == "__main__":
    main()
