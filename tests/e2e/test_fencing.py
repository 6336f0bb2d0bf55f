"""A data plane that is stopped and wakes up late neither writes nor reads pages of anybody else (design: "Fencing").

Where it was stopped is not guessed: the pages themselves show a write that is half done, and the data
plane's counters a read that came too late.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from compare import disagreement
from engine import Answer
from rig import OUTPUT_TOKENS, Rig, prompt, wait_for_hit

pytestmark = pytest.mark.engine

PAGE_TOKENS = 32
STOPS_MAX = 40  # tries to stop the data plane at the right moment
ROUNDS_MAX = 5
LONG_OUTPUT = 100


@contextlib.contextmanager
def stopped(rig: Rig) -> Iterator[None]:
    rig.plane.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        rig.plane.signal(signal.SIGCONT)


class Running:
    """Requests that go on generating for a while, so that they own pages."""

    _numbers = itertools.count()

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._prompts: dict[str, list[int]] = {}
        self._started: list[threading.Event] = []
        self.answers: list[Future[Answer]] = []

    def add(self, tokens: list[int]) -> None:
        name = f"running-{next(self._numbers)}"
        started = threading.Event()
        answer = self._rig.engine.submit(tokens, LONG_OUTPUT, request_id=name, on_tokens=lambda _: started.set())
        answer.add_done_callback(lambda _: started.set())
        self._prompts[name] = tokens
        self._started.append(started)
        self.answers.append(answer)

    def abort(self) -> None:
        """All of them, and forgets them."""
        for name, answer in zip(self._prompts, self.answers, strict=True):
            self._rig.engine.abort(name)
            answer.exception(60)
        self.__init__(self._rig)  # type: ignore[misc]

    def wait(self) -> None:
        """Until each has its first token."""
        for started in self._started:
            assert started.wait(60)

    def pages(self) -> tuple[set[int], set[int]]:
        """(all pages that they own, those of them that never change again)"""
        owned, settled = set(), set()
        for name, tokens in self._prompts.items():
            table = self._rig.engine.worker("request_pages", name)
            owned.update(table)
            settled.update(table[: len(tokens) // PAGE_TOKENS])
        return owned, settled


def changed(before: list[int], after: list[int]) -> set[int]:
    """Page 0 is vLLM's own: padding is written there."""
    return {page for page in range(1, len(before)) if before[page] != after[page]}


def stop_in_a_write(rig: Rig, tokens: list[int], requests: Running, moments: random.Random) -> None:
    """Stops the data plane when some pages of a load are written and others are not."""
    whole = len(tokens) // 256 * 256 // PAGE_TOKENS
    for _ in range(STOPS_MAX):
        rig.forget()
        before = rig.engine.worker("page_digests")
        requests.add(tokens)
        time.sleep(moments.uniform(0.001, 0.03))
        rig.plane.signal(signal.SIGSTOP)
        written = changed(before, rig.engine.worker("page_digests"))
        if 0 < len(written) < whole:
            return
        rig.plane.signal(signal.SIGCONT)
        requests.abort()
    raise AssertionError(f"not stopped in a write in {STOPS_MAX} tries")


def unfinished_loads(rig: Rig) -> float:
    """Loads that ended otherwise than well."""
    name = "shadowserve_fetch_requests_total"
    return rig.plane.metric(name) - rig.plane.metric(name, result="ok")


def late_write(rig: Rig, prompts: list[list[int]], references: list[Answer], moments: random.Random) -> set[int]:
    """One round. The pages that were written late; none when the stop hit a moment between two writes."""
    failed = unfinished_loads(rig)
    requests = Running(rig)
    stop_in_a_write(rig, prompts[0], requests, moments)
    try:
        requests.wait()  # by its deadline the load has failed, and the prompt is computed in other pages
        for number in range(4):  # freed pages are taken in turn: those of the load would be by now
            rig.engine.generate(prompt(800, 1000 + number), 1)
        for tokens in prompts[1:]:
            requests.add(tokens)
        requests.wait()
        owned, settled = requests.pages()
        before = rig.engine.worker("page_digests")
    finally:
        rig.plane.signal(signal.SIGCONT)
    rig.plane.wait_until(lambda: unfinished_loads(rig) > failed)
    after = rig.engine.worker("page_digests")
    owned |= requests.pages()[0]  # fails when one has finished meanwhile
    assert len(settled) == sum(len(tokens) // PAGE_TOKENS for tokens in prompts)
    assert not changed(before, after) & settled
    answers = [future.result(120) for future in requests.answers]
    assert [disagreement(*pair) for pair in zip(references, answers, strict=True)] == [None] * len(prompts)
    return changed(before, after) - owned


def test_a_write_that_wakes_up_late_reaches_no_page_of_anybody(fence: Rig) -> None:
    """Of 223 pages the failed load may still write 64, and the requests that run use 153."""
    prompts = [prompt(2100, 70), *(prompt(790, 71 + number) for number in range(3))]
    futures = [fence.engine.submit(tokens, LONG_OUTPUT) for tokens in prompts]
    references = [future.result(120) for future in futures]
    wait_for_hit(fence, prompts[0], 2048)
    moments = random.Random(70)
    late: set[int] = set()
    for _ in range(ROUNDS_MAX):
        late = late_write(fence, prompts, references, moments)
        if late:
            break
    assert late, f"no write came late in {ROUNDS_MAX} rounds: nothing was tested"
    wait_for_hit(fence, prompts[0], 2048)  # no page is held any more, and the engine was not restarted


def refused_saves(rig: Rig) -> float:
    reasons = ("not_held", "engine_gone")
    return sum(rig.plane.metric("shadowserve_saves_dropped_total", reason=reason) for reason in reasons)


def test_a_read_that_wakes_up_late_stores_nothing(fence: Rig) -> None:
    """While the data plane is stopped amid a request's saves, the request is preempted, its saves get over
    their deadline (2.5 s), the engine has its pages back, and noise is in them. Saves go one by one and slowly
    here, so that some are still to be read whenever the data plane is stopped."""
    old, new = [prompt(2561, 80), prompt(3490, 81)], prompt(990, 82)
    for tokens in old:
        fence.save(tokens)
        fence.forget()
    reference = fence.engine.generate(new, OUTPUT_TOKENS, salt="reference")
    slow = f"faulty+{fence.plane.store}&fault.delay_ms=100"
    with fence.plane.serving(store=slow, memory_save_share="0.04"):
        fence.forget()
        preempted = fence.engine.preemptions()
        requests = Running(fence)
        for tokens in old:  # hits: they have 191 of 223 pages at once, and take one more each after 30 tokens
            requests.add(tokens)
        requests.wait()
        requests.add(new)  # 31 pages, one more after 2 tokens
        fence.plane.wait_until(lambda: fence.plane.metric("shadowserve_saves_total") > 0)
        with stopped(fence):
            fence.plane.wait_until(lambda: fence.engine.preemptions() > preempted)
            requests.abort()
            fence.forget()
        # The control: the reading went on afterwards, and the engine's answer (or the end of its session, where
        # all this took 10 s) refused the result.
        fence.plane.wait_until(lambda: refused_saves(fence) > 0)
        fence.plane.wait_until(lambda: fence.plane.metric("shadowserve_slabs", pool="save", state="used") == 0)
    assert fence.plane.verify()["damaged"] == []
    wait_for_hit(fence, new, 768, reference)
