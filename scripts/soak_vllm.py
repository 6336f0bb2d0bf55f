"""Some hundreds of requests through a real vLLM on a data plane that is stopped, killed and restarted.

Every answer is compared with the one that the same engine gave when it computed the whole prompt. Used by
soak.py.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from compare import disagreement  # noqa: E402
from dataplane import DataPlane  # noqa: E402
from engine import Engine, EngineOptions  # noqa: E402
from make_model import SHAPES, write_model  # noqa: E402

MODEL = SHAPES["small"]
PROMPTS = 12
PROMPT_CHUNKS = (1, 5)
OUTPUT_TOKENS = 8
AT_ONCE = 6
FAULT_EVERY_S = 4.0
ANSWER_S = 60.0  # far beyond every deadline, also on a loaded machine
STORE = "faulty+disk://{folder}?capacity=1GiB&fault.delay_ms=1&fault.fail=0.002&fault.drop=0.005&fault.corrupt=0.01"


def make_prompts(generator: random.Random) -> list[list[int]]:
    """Half of them go on where another one ended."""
    prompts: list[list[int]] = []
    for number in range(PROMPTS):
        start = prompts[generator.randrange(number)][:512] if number % 2 else []
        length = 256 * generator.randint(*PROMPT_CHUNKS) + generator.randint(1, 200)
        prompts.append(start + [generator.randrange(1, MODEL.vocabulary) for _ in range(length)])
    return prompts


class Faults:
    """Stops, kills and restarts at seeded moments until the block ends."""

    def __init__(self, plane: DataPlane, seed: int) -> None:
        self.count = {"stop": 0, "kill": 0, "term": 0}
        self.error: BaseException | None = None
        self._plane = plane
        self._moments = random.Random(seed)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Faults:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._end.wait(self._moments.expovariate(1 / FAULT_EVERY_S)):
                self._inject(self._moments.choices(list(self.count), [6, 3, 1])[0])
        except BaseException as error:
            self.error = error

    def _inject(self, kind: str) -> None:
        self.count[kind] += 1
        if kind == "stop":
            self._plane.signal(signal.SIGSTOP)
            time.sleep(self._moments.uniform(0.1, 3))
            self._plane.signal(signal.SIGCONT)
            return
        if kind == "kill":
            self._plane.kill()
        elif (status := self._plane.stop()) != 0:
            raise RuntimeError(f"shadowserved exited with {status} on SIGTERM")
        time.sleep(self._moments.uniform(0, 1))
        self._plane.start()


def soak_vllm(requests: int, seed: int, folder: Path) -> dict[str, Any]:
    """Returns counts, and `findings` as texts."""
    model = ROOT / "build" / "models" / "soak"
    write_model(model, MODEL)
    generator = random.Random(seed)
    prompts = make_prompts(generator)
    plane = DataPlane(folder, STORE.format(folder=folder / "store"))
    plane.start()
    options = EngineOptions(
        model=model,
        data_plane=plane.address,
        connector={"lookup_timeout_s": 0.5, "fetch_deadline_s": 2},
        page_tokens=32,
        pages=224,
        max_model_len=4096,
        max_requests=AT_ONCE,
    )
    findings: list[str] = []
    counts = {"requests": 0, "remote_hits": 0, "tokens_cached": 0}
    start = time.monotonic()
    try:
        with Engine(options, folder / "engine.log") as engine:
            references = [engine.generate(tokens, OUTPUT_TOKENS, salt="reference") for tokens in prompts]
            with Faults(plane, seed) as faults:
                while counts["requests"] < requests:
                    round_(engine, prompts, references, generator, counts, findings)
                    if counts["requests"] % (20 * AT_ONCE) == 0:
                        print(
                            f"soak: vLLM: {counts['requests']} requests, {counts['remote_hits']} remote hits",
                            flush=True,
                        )
            if faults.error is not None:
                findings.append(f"faults ended early: {faults.error}")
            if not pages_come_back(engine):
                findings.append("vLLM: pages are still held 30 s after the last request")
    finally:
        plane.close()
    if counts["remote_hits"] == 0:
        findings.append("vLLM: nothing was fetched, so nothing was tested")
    return counts | {"seconds": round(time.monotonic() - start, 1), "faults": faults.count, "findings": findings}


def round_(
    engine: Engine,
    prompts: list[list[int]],
    references: list[Any],
    generator: random.Random,
    counts: dict[str, int],
    findings: list[str],
) -> None:
    """Some requests at once; half of the time the engine has forgotten what it knew itself."""
    forgotten = generator.random() < 0.5 and engine.reset_local_cache()
    chosen = [generator.randrange(len(prompts)) for _ in range(AT_ONCE)]
    futures = [engine.submit(prompts[number], OUTPUT_TOKENS) for number in chosen]
    for number, future in zip(chosen, futures, strict=True):
        try:
            answer = future.result(ANSWER_S)
        except FutureTimeoutError:
            findings.append(f"vLLM: prompt {number} was not answered within {ANSWER_S:.0f} s")
            continue
        counts["requests"] += 1
        counts["remote_hits"] += forgotten and answer.cached > 0
        counts["tokens_cached"] += answer.cached
        if (difference := disagreement(references[number], answer)) is not None:
            findings.append(f"vLLM: prompt {number} of {len(prompts[number])}, {answer.cached} cached: {difference}")
            print(f"soak: {findings[-1]}", file=sys.stderr, flush=True)


def pages_come_back(engine: Engine) -> bool:
    """vLLM resets its cache only when every page is free."""
    end = time.monotonic() + 30
    while not engine.reset_local_cache():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
