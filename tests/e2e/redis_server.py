"""Servers under test: redis-server processes on free ports, with nothing on disk, and a cluster of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
from dataplane import free_port


def skip_without_redis() -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (apt: redis-server)")


class RedisServer:
    def __init__(self, folder: Path, address: str = "127.0.0.1", arguments: Sequence[str] = ()) -> None:
        self.address = address
        self.arguments = list(arguments)
        self.port = free_port()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.address}:{self.port}?timeout_ms=500"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", self.address, "--protected-mode", "no"]
        command += ["--save", "", "--dir", str(self.folder), *self.arguments]
        with open(self.folder / "redis.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait(self._answers, "redis-server does not answer", 10)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == "+PONG"
        except OSError:
            return False

    @contextlib.contextmanager
    def _asked(self, *command: str) -> Iterator[BinaryIO]:
        """The answer, to be read."""
        with socket.create_connection((self.address, self.port), timeout=5) as connection:
            connection.sendall((" ".join(command) + "\r\n").encode())
            with connection.makefile("rb") as reply:
                yield reply

    def ask(self, *command: str) -> str:
        """The first line of the answer."""
        with self._asked(*command) as reply:
            return reply.readline().decode().strip()

    def lines(self, *command: str) -> list[str]:
        """All lines of a bulk answer, its length in front."""
        with self._asked(*command) as reply:
            header = reply.readline()
            return [header.decode().strip(), *reply.read(int(header[1:])).decode().splitlines()]

    def keys(self, pattern: str) -> list[str]:
        with self._asked("KEYS", pattern) as reply:
            count = int(reply.readline()[1:])
            return [reply.readline().decode().strip() for _ in range(2 * count)][1::2]  # lengths stand in front

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None


def wait(condition: Callable[[], bool], what: str, timeout_s: float = 40) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class RedisCluster:
    """Masters with an equal share of the slots, and a replica of each that takes over after a second."""

    ARGUMENTS = (
        *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
        *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
    )

    def __init__(self, folder: Path, masters: int = 3) -> None:
        self.masters = masters
        self.bus_ports = [free_port() for _ in range(2 * masters)]
        self.servers = []
        for number, bus_port in enumerate(self.bus_ports):
            (folder / str(number)).mkdir()
            arguments = [*self.ARGUMENTS, "--cluster-port", str(bus_port)]
            self.servers.append(RedisServer(folder / str(number), arguments=arguments))

    @property
    def url(self) -> str:
        seeds = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[: self.masters])
        return f"redis+cluster://{seeds}?timeout_ms=500"

    def start(self) -> None:
        for number, server in enumerate(self.servers):
            server.start()
            if number < self.masters:
                first, end = (16384 * edge // self.masters for edge in (number, number + 1))
                server.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1))
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            self.servers[0].ask("CLUSTER", "MEET", "127.0.0.1", str(server.port), str(self.bus_ports[number]))
        for master, replica in zip(self.servers, self.servers[self.masters :], strict=False):
            name = master.lines("CLUSTER", "MYID")[1]

            def follows(replica: RedisServer = replica, name: str = name) -> bool:
                return replica.ask("CLUSTER", "REPLICATE", name) == "+OK"

            wait(follows, "a replica does not know its master")
        wait(self.complete, "the cluster does not come up")

    def complete(self) -> bool:
        """Every server knows all others, and every replica has what its master has."""
        for number, server in enumerate(self.servers):
            info = server.lines("CLUSTER", "INFO")
            if not {"cluster_state:ok", f"cluster_known_nodes:{len(self.servers)}"} <= set(info):
                return False
            if number >= self.masters and "master_link_status:up" not in server.lines("INFO", "replication"):
                return False
        return True

    def kill(self) -> None:
        for server in self.servers:
            server.kill()
