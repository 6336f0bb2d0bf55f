#!/usr/bin/env python3
"""Resident memory of a real shadowserved over a disk store with many stored segments.

Prints one JSON object. Bound: slab budget + 100 MiB + 128 bytes per stored segment (its marker
included); exits 1 when the daemon takes more. The segments are small files under the names of real
ones: what counts here is their number.

    scripts/measure_memory.py [--segments 100000] [--daemon build/release/bin/shadowserved]
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SLAB_BUDGET = 256 << 20
MIB = 1 << 20


def make_segments(folder: Path, count: int) -> None:
    for shard in range(256):
        (folder / f"{shard:02x}").mkdir()
    for number in range(count):
        key = hashlib.sha256(number.to_bytes(8, "little")).hexdigest()
        for kind in ("seg", "mark"):
            (folder / key[:2] / f"{key}.lossless.zstd.l0+4.h0of1.{kind}").write_bytes(b"x" * 64)


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("no VmRSS")


def measure(daemon: Path, folder: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="ss-") as sockets:
        command = [str(daemon), "--listen", f"unix://{sockets}/s", "--store", f"disk://{folder}?capacity=64GiB"]
        process = subprocess.Popen(
            [*command, "--log-level", "warn"],
            stdout=subprocess.PIPE,
            text=True,
            env={"SHADOWSERVE_MEMORY_SLAB_BUDGET": str(SLAB_BUDGET)},
        )
        try:
            assert process.stdout is not None
            if not process.stdout.readline().startswith("shadowserved ready"):
                raise RuntimeError("shadowserved did not get ready")
            return resident_bytes(process.pid)
        finally:
            process.terminate()
            process.wait(30)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--daemon", type=Path, default=ROOT / "build/release/bin/shadowserved")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where the store's folder is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="ss-memory-") as name:
        folder = Path(name)
        empty = measure(options.daemon, folder / "empty")
        (folder / "full").mkdir()
        make_segments(folder / "full", options.segments)
        full = measure(options.daemon, folder / "full")
    bound = SLAB_BUDGET + 100 * MIB + 128 * options.segments
    report = {
        "segments": options.segments,
        "slab_budget_mib": SLAB_BUDGET / MIB,
        "resident_empty_mib": round(empty / MIB, 1),
        "resident_mib": round(full / MIB, 1),
        "bytes_per_segment": round((full - empty) / options.segments, 1),
        "bound_mib": round(bound / MIB, 1),
    }
    print(json.dumps(report, indent=2))
    return 0 if full <= bound else 1


if __name__ == "__main__":
    sys.exit(main())
