"""A real shadowserved with a codec engine, and engines without a model that compare every byte (soak_driver).

  codec_engine_check.py DEVICE [--library PLUGIN] [--expect engine|software|refused] [--profile PROFILE] [--cores N]

`engine`: the codec engine decoded blocks, and no block fell back to software. `software`: it is of no use,
and software decoded all. `refused`: the program ends with exit code 2 and one line. With a `profile` that is
not exact, pages are compared with those that a data plane without the engine fills from the same store. With several
`cores` each has a thread with a queue of the engine. Exit status: 0 as expected, 1 not, 77 skipped (with the reason).
"""

from __future__ import annotations

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from dataplane import DAEMON, DataPlane

SKIPPED = 77
PREFIX = "shadowserve_codec_engine_"


def settings(options: argparse.Namespace) -> dict[str, str]:
    chosen = {
        "SHADOWSERVE_CODEC_ENGINE": "compressdev",
        "SHADOWSERVE_CODEC_ENGINE_DEVICE": options.device,
    }
    if options.library is not None:
        chosen["SHADOWSERVE_CODEC_ENGINE_LIBRARY"] = options.library
    return chosen


def check_refusal(plane: DataPlane) -> str | None:
    try:
        plane.start()
    except RuntimeError:
        lines = [line for line in plane.log.read_text().splitlines() if line.startswith("shadowserved: ")]
        print("\n".join(lines))
        named = [line for line in lines if "codec.engine" in line]
        return None if len(lines) == 1 and named == lines else "it does not end with one line"
    return "it started"


def check_loads(plane: DataPlane, expect: str, requests: int) -> str | None:
    plane.start()
    driver = [str(DAEMON.with_name("soak_driver")), "--data-plane", plane.address, "--requests", str(requests)]
    # Generous: on a busy machine a load that is late is no failure of the codec engine.
    if subprocess.run([*driver, "--fetch-deadline", "30"], stdout=subprocess.DEVNULL).returncode != 0:
        return "bytes were wrong, or loads failed"
    return judge_blocks(plane, expect)


def check_same_pages(plane: DataPlane, software: DataPlane, expect: str) -> str | None:
    """Both have the same store: what the first saved and fetched, the second fetches."""
    wrong = fill_pages(plane, "saved and fetched, not exact") or judge_blocks(plane, expect)
    if wrong is None:
        wrong = fill_pages(software, "fetched, not exact")
        software.kill()
    if wrong is None and not filecmp.cmp(pages_of(plane), pages_of(software), shallow=False):
        wrong = "the pages differ from software's"
    return wrong


def pages_of(plane: DataPlane) -> Path:
    return plane.log.with_suffix(".pages")


def fill_pages(plane: DataPlane, expected: str) -> str | None:
    plane.start()
    driver = [str(DAEMON.with_name("pages_driver")), "--data-plane", plane.address, "--write", str(pages_of(plane))]
    run = subprocess.run(driver, stdout=subprocess.PIPE, text=True)
    print(run.stdout, end="")
    return None if run.returncode == 0 and run.stdout.strip() == expected else f"pages were not {expected}"


def judge_blocks(plane: DataPlane, expect: str) -> str | None:
    decoded = plane.metric(f"{PREFIX}blocks_total")
    fallbacks = plane.metric(f"{PREFIX}fallbacks_total")
    corrupt = plane.metric("shadowserve_corrupt_total")
    inflight = plane.metric(f"{PREFIX}inflight")
    print(f"blocks decoded by the engine {decoded:.0f}, fallbacks {fallbacks:.0f}, corrupt {corrupt:.0f}")
    if corrupt > 0 or inflight > 0:
        return "something is damaged or left over"
    if expect == "engine" and (decoded == 0 or fallbacks > 0):
        return "not all went through the engine"
    if expect == "software" and (decoded > 0 or fallbacks == 0):
        return "not all went through software"
    return None if plane.stop() == 0 else "it did not stop well"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("device")
    parser.add_argument("--library")
    parser.add_argument("--expect", choices=("engine", "software", "refused"), default="engine")
    parser.add_argument("--profile", default="lossless")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--cores", type=int, default=0)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    if len(cores) < options.cores:
        print(f"skipped: {options.cores} cores are needed, there are {len(cores)}")
        return SKIPPED
    plugin = DAEMON.with_name("libshadowserve_compressdev.so")
    if options.library is None and not plugin.exists():
        print(f"skipped: this build has no DPDK plug-in ({plugin} is missing)")
        return SKIPPED
    with tempfile.TemporaryDirectory(prefix="ss-engine-") as folder:
        stored = {"profile": options.profile, "lossless": "deflate"}
        plane = DataPlane(Path(folder), environment=settings(options), cores=cores, **stored)
        software = DataPlane(Path(folder) / "software", store=plane.store, **stored)
        try:
            if options.expect == "refused":
                wrong = check_refusal(plane)
            elif options.profile != "lossless":
                wrong = check_same_pages(plane, software, options.expect)
            else:
                wrong = check_loads(plane, options.expect, options.requests)
            if wrong is not None:
                print(f"{wrong}; the log ends with\n{plane.log.read_text()[-2000:]}")
            return 0 if wrong is None else 1
        finally:
            plane.close()
            software.close()


if __name__ == "__main__":
    sys.exit(main())
