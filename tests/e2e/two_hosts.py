"""Two hosts on this machine: network namespaces joined by a veth pair that is as fast as a given link.

    with TwoHosts(gigabits_per_s=10) as hosts:
        with hosts.store.entered():  # what starts in here runs on that host: processes, sockets, threads
            redis.start()
        with hosts.engine.entered():
            plane.start()
        with hosts.partitioned():
            ...  # nothing arrives, in either direction

Only the network is divided: files, Unix sockets and processes are those of this machine, so that an engine of
either host reaches a data plane at unix://. The namespaces have no names. They live as long as a descriptor
of this process or a process in them, so that nothing stays behind even when this process is killed.

Needs root, with the right to make namespaces, and ip and tc: why_not() says what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

CLONE_NEWNET = 0x40000000  # <sched.h>
DEVICE = "eth0"
# As on most networks. The offloads of veth stay on: packets cross it in bundles of up to 64 KiB, each counted
# with the headers of all its packets, and one core fills 10 Gbit/s.
MTU = 1500

# The token bucket lets whole bundles through without cutting them, and makes up for a timer that comes up to
# 1 ms late: what it could not send meanwhile goes at once.
BURST_BYTES_MIN = 256 << 10
BURST_S = 1e-3
# Longest stay in its queue. TCP keeps few packets there by itself (small queues), so that it rarely drops.
QUEUE_MS = 10

_libc = ctypes.CDLL(None, use_errno=True)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _new_namespace() -> int:
    before = _own_namespace()
    try:
        if _libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        made = _own_namespace()
        _enter(before)
        return made
    finally:
        os.close(before)


@dataclass(frozen=True)
class Host:
    address: str
    namespace: int  # descriptor, owned by TwoHosts

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and all that it starts, is on this host meanwhile."""
        before = _own_namespace()
        try:
            _enter(self.namespace)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)

    def run(self, command: str) -> None:
        """OSError with what it said when it fails."""
        with self.entered():
            done = subprocess.run(command.split(), capture_output=True, text=True, timeout=30)
        if done.returncode != 0:
            raise OSError(f"{command}: {done.stderr.strip()}")

    def received_bytes(self) -> int:
        """From the other host so far, headers included."""
        with self.entered():
            for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
                device, _, counters = line.partition(":")
                if device.strip() == DEVICE:
                    return int(counters.split()[0])
        raise OSError(f"no {DEVICE}")


class TwoHosts:
    def __init__(self, gigabits_per_s: float) -> None:
        """The link has that rate in each direction, headers included: 0.957 of it is left for values."""
        self.store: Host
        self.engine: Host
        self.gigabits_per_s = gigabits_per_s
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> TwoHosts:
        with contextlib.ExitStack() as undo:
            hosts = []
            for address in ("10.0.0.1", "10.0.0.2"):
                namespace = _new_namespace()
                undo.callback(os.close, namespace)
                hosts.append(Host(address, namespace))
            self.store, self.engine = hosts
            peer = f"/proc/{os.getpid()}/fd/{self.engine.namespace}"
            # With one index for both, the kernel takes its time (1 s) to see that the link is up.
            self.store.run(f"ip link add {DEVICE} index 11 type veth peer {DEVICE} index 12 netns {peer}")
            for host in hosts:
                host.run(f"ip address add {host.address}/24 dev {DEVICE}")
                host.run(f"ip link set {DEVICE} mtu {MTU} up")
                host.run("ip link set lo up")
            self.shape(self.gigabits_per_s)
            self._closing = undo.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing.close()

    def shape(self, gigabits_per_s: float) -> None:
        self.gigabits_per_s = gigabits_per_s
        bits_per_s = round(gigabits_per_s * 1e9)
        burst = max(BURST_BYTES_MIN, round(bits_per_s / 8 * BURST_S))
        self._queue(f"tbf rate {bits_per_s}bit burst {burst} latency {QUEUE_MS}ms")

    @contextlib.contextmanager
    def partitioned(self) -> Iterator[None]:
        """Every packet is lost meanwhile, without a word: both ends still see a link that is up."""
        self._queue("blackhole")
        try:
            yield
        finally:
            self.shape(self.gigabits_per_s)

    def _queue(self, discipline: str) -> None:
        for host in (self.store, self.engine):
            host.run(f"tc qdisc replace dev {DEVICE} root {discipline}")


def why_not() -> str | None:
    """What this machine lacks for two hosts, or None."""
    if os.geteuid() != 0:
        return "two hosts need root"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt: iproute2)"
    try:
        with TwoHosts(gigabits_per_s=1):
            return None
    except OSError as error:  # a container without the right, a kernel without veth or tbf
        return f"two hosts cannot be made here: {error}"
