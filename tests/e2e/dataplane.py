"""A data plane under test: shadowserved as its own process, with its store and its metrics."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DAEMON = Path(os.environ.get("SHADOWSERVED", ROOT / "build" / "release" / "bin" / "shadowserved"))
CONTROL = DAEMON.with_name("shadowctl")


def free_port() -> int:
    """Below the ports that the kernel gives to whoever connects: it stays free while its server restarts."""
    while True:
        port = random.randrange(22_100, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class DataPlane:
    """Start with start(); the same address and store survive restarts."""

    def __init__(
        self,
        folder: Path,
        store: str | None = None,
        profile: str = "lossless",
        lossless: str = "zstd",
        cores: Sequence[int] = (),
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        user: int | None = None,
        listen: str | None = None,
    ) -> None:
        """`user`: a uid to run as, if this process may change it; it must be able to reach `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        # Addresses of Unix sockets are short (108 bytes): not in a deep test folder.
        self._sockets = tempfile.TemporaryDirectory(prefix="ss-")
        self._user = user
        self._program = DAEMON
        if user is not None:
            os.chown(self._sockets.name, user, user)
            # The build may lie where only its owner looks.
            self._program = Path(shutil.copy2(DAEMON, folder))
        self.folder = folder
        self.address = listen or f"unix://{self._sockets.name}/plane.sock"
        self.store_folder = folder / "store"
        self.store = store or f"disk://{self.store_folder}?capacity=4GiB"
        self.metrics_port = free_port()
        self._environment = {
            "SHADOWSERVE_CODEC_PROFILE": profile,
            "SHADOWSERVE_CODEC_LOSSLESS": lossless,
            **(environment or {}),
        }
        self._cores = cores
        self._arguments = list(arguments)
        self._process: subprocess.Popen[str] | None = None
        self.log = folder / "shadowserved.log"

    def start(self, timeout_s: float = 30) -> None:
        self.store_folder.mkdir(exist_ok=True)
        if self._user is not None:
            os.chown(self.store_folder, self._user, self._user)
        command = [str(self._program), "--listen", self.address, "--store", self.store]
        command += ["--metrics", f"127.0.0.1:{self.metrics_port}", *self._arguments]
        if self._cores:
            command += ["--cores", ",".join(map(str, self._cores))]
        with open(self.log, "a") as log:
            self._process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | self._environment,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )
        line: list[str] = []
        stdout = self._process.stdout
        assert stdout is not None
        reader = threading.Thread(target=lambda: line.append(stdout.readline()), daemon=True)
        reader.start()
        reader.join(timeout_s)
        if not line or not line[0].startswith("shadowserved ready"):
            self.kill()
            raise RuntimeError(f"shadowserved did not get ready ({line}):\n{self.log.read_text()[-3000:]}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def ended(self) -> int | None:
        """Its exit status if it ended by itself."""
        assert self._process is not None
        return self._process.poll()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(60)
        self._process = None
        return status

    def restart(self, program: Path = DAEMON, cores: Sequence[int] | None = None, at_once: bool = False) -> None:
        """Stops it and starts another program, or the same on other cores, at the same address and store. `at_once`:
        without the 5 s in which open sessions may end."""
        if at_once:
            self.kill()
        else:
            self.stop()
        self._program = program
        self._cores = self._cores if cores is None else cores
        self.start()

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
                self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def close(self) -> None:
        self.kill()
        self._sockets.cleanup()

    @contextlib.contextmanager
    def serving(self, store: str | None = None, **settings: str) -> Iterator[None]:
        """Restarts with another store or other settings (`codec_profile`, ...), and goes back at the end."""
        before = self.store, dict(self._environment)
        self._restart(
            store or self.store, self._environment | {f"SHADOWSERVE_{key.upper()}": settings[key] for key in settings}
        )
        try:
            yield
        finally:
            self._restart(*before)

    def _restart(self, store: str, environment: dict[str, str]) -> None:
        sessions = self.metric("shadowserve_sessions")
        self.kill()  # quicker than stop(), and the engines find the next one sooner
        self.store = store
        self._environment = environment
        self.start()
        self.wait_for_sessions(sessions)

    def wait_for_sessions(self, count: float = 2) -> None:
        """Until that many are there: an engine has one, and one more for each of its workers."""
        self.wait_until(lambda: self.metric("shadowserve_sessions") >= count)

    def verify(self) -> dict[str, Any]:
        """What `shadowctl verify` finds in the store; fails unless it says the same by its exit status."""
        run = subprocess.run(
            [str(CONTROL), "--connect", self.address, "verify", "--format", "json"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        found: dict[str, Any] = json.loads(run.stdout)
        assert run.returncode == (1 if found["damaged"] else 0), run.stderr
        return found

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time so far by thread ("name id")."""
        used = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # it may end meanwhile
                nanoseconds = int((task / "schedstat").read_text().split()[0])
                used[f"{(task / 'comm').read_text().strip()} {task.name}"] = nanoseconds / 1e9
        return used

    # --- metrics --------------------------------------------------------------------------------

    def metric(self, name: str, **labels: str) -> float:
        """Sum over the series of that name whose labels include the given ones."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            text = response.read().decode()
        total = 0.0
        for line in text.splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? ([^ ]+)(?: \d+)?", line)
            if match and match[1] == name:
                found = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                if labels.items() <= found.items():
                    total += float(match[3])
        return total

    def chunks_settled(self) -> int:
        """Chunks that were offered and are stored, present or dropped by now."""
        return int(self.metric("shadowserve_saves_total") + self.metric("shadowserve_saves_dropped_total"))

    def wait_until(self, condition: object, timeout_s: float = 60) -> None:
        assert callable(condition)
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not reached within {timeout_s} s; {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def wait_for_chunks(self, count: int, timeout_s: float = 60) -> None:
        """Until `count` chunks in all have been settled since the data plane started."""
        self.wait_until(lambda: self.chunks_settled() >= count, timeout_s)
