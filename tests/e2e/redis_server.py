"""A redis-server under test: its own process, on a free port, with nothing on disk."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from dataplane import free_port


class RedisServer:
    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self.address = address
        self.port = free_port()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.address}:{self.port}?timeout_ms=500"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", self.address, "--protected-mode", "no"]
        command += ["--save", "", "--dir", str(self.folder)]
        with open(self.folder / "redis.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < end, "redis-server does not answer"
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == "+PONG"
        except OSError:
            return False

    def ask(self, *command: str) -> str:
        """The first line of the answer."""
        with socket.create_connection((self.address, self.port), timeout=5) as connection:
            connection.sendall((" ".join(command) + "\r\n").encode())
            return connection.makefile().readline().strip()

    def keys(self, pattern: str) -> list[str]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"KEYS {pattern}\r\n".encode())
            reply = connection.makefile()
            count = int(reply.readline()[1:])
            return [reply.readline().strip() for _ in range(2 * count)][1::2]  # each has its length in front

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None
