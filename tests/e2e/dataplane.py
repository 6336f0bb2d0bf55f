"""A data plane under test: shadowserved as its own process, with its store and its metrics."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DAEMON = Path(os.environ.get("SHADOWSERVED", ROOT / "build" / "release" / "bin" / "shadowserved"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Addresses of Unix sockets are short (108 bytes): not in a deep test folder.
        self._sockets = tempfile.TemporaryDirectory(prefix="ss-")
        self.folder = folder
        self.address = f"unix://{self._sockets.name}/plane.sock"
        self.store_folder = folder / "store"
        self.store = store or f"disk://{self.store_folder}?capacity=4GiB"
        self.metrics_port = free_port()
        self._environment = {
            "SHADOWSERVE_CODEC_PROFILE": profile,
            "SHADOWSERVE_CODEC_LOSSLESS": lossless,
            **(environment or {}),
        }
        self._program = DAEMON
        self._cores = cores
        self._arguments = list(arguments)
        self._process: subprocess.Popen[str] | None = None
        self.log = folder / "shadowserved.log"

    def start(self, timeout_s: float = 30) -> None:
        self.store_folder.mkdir(exist_ok=True)
        command = [str(self._program), "--listen", self.address, "--store", self.store]
        command += ["--metrics", f"127.0.0.1:{self.metrics_port}", *self._arguments]
        if self._cores:
            command += ["--cores", ",".join(map(str, self._cores))]
        with open(self.log, "a") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | self._environment
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

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(60)
        self._process = None
        return status

    def restart(self, program: Path = DAEMON, cores: Sequence[int] | None = None) -> None:
        """Stops it and starts another program, or the same on other cores, at the same address and store."""
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
