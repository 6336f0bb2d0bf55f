"""Whatever happens to the store's files, answers are right, and the damage is counted or a miss."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
from compare import disagreement, head
from dataplane import DataPlane
from engine import Answer
from rig import OUTPUT_TOKENS, Rig, prompt, wait_for_hit

pytestmark = pytest.mark.engine

SOME_TOKENS = 8
Damage = Callable[[Path], None]


def objects(plane: DataPlane) -> set[Path]:
    return set(plane.store_folder.glob("??/*"))


def save_objects(rig: Rig, tokens: list[int]) -> tuple[Answer, list[Path]]:
    """The reference, and the objects of this prompt alone: its segments, then their markers in the same order."""
    before = objects(rig.plane)
    reference = rig.save(tokens)
    new = objects(rig.plane) - before
    segments = sorted(path for path in new if path.suffix == ".seg")
    markers = [path.with_suffix(".mark") for path in segments]
    assert new == {*segments, *markers}
    assert len(segments) == len(tokens) // 256
    return reference, segments + markers


def flip(offset: float) -> Damage:
    """One bit. `offset`: in bytes from the front, from the end when negative, a part of the size below 1."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(len(data) * offset) if 0 < offset < 1 else int(offset)] ^= 0x10
        path.write_bytes(data)

    return damage


def cut(keep: float) -> Damage:
    return lambda path: os.truncate(path, int(path.stat().st_size * keep))


def extend(count: int) -> Damage:
    def damage(path: Path) -> None:
        with open(path, "ab") as file:
            file.write(b"\x55" * count)

    return damage


def replace_by(other: Path) -> Damage:
    def damage(path: Path) -> None:
        shutil.copy(other, path.with_name("copy"))
        os.rename(path.with_name("copy"), path)

    return damage


# Offsets: docs/chunk_format.md. Magic, version, total bytes, name digest, authentication, head CRC; then the
# table (segments), the payload, its end.
SEGMENT_DAMAGES: dict[str, Damage] = {
    **{f"bit at {offset}": flip(offset) for offset in (0, 4, 40, 50, 100, 120, 125, 130, 0.3, 0.7, -1)},
    "empty": cut(0),
    "half": cut(0.5),
    "a byte longer": extend(1),
    "a lot longer": extend(6 << 20),
    "removed": os.remove,
}
MARKER_DAMAGES: dict[str, Damage] = {
    **{f"bit at {offset}": flip(offset) for offset in (0, 4, 8, 17, 30, 60, 100, -1)},
    "empty": cut(0),
    "half": cut(0.5),
    "a byte longer": extend(1),
    "removed": os.remove,
}


def noticed(plane: DataPlane) -> float:
    """Damages that the data plane counted, and objects that it missed."""
    return plane.metric("shadowserve_corrupt_total") + plane.metric(
        "shadowserve_fetch_requests_total", result="failed_not_found"
    )


def expect_noticed(rig: Rig, tokens: list[int], reference: Answer, what: str) -> None:
    """The answer is right, the damage counted, and what was damaged is stored anew."""
    rig.forget()
    before, settled = noticed(rig.plane), rig.plane.chunks_settled()
    answer = rig.engine.generate(tokens, SOME_TOKENS)
    assert disagreement(head(reference, SOME_TOKENS), answer) is None, what
    assert noticed(rig.plane) > before or answer.cached < 512, what
    rig.plane.wait_for_chunks(settled + 2)


def test_every_damage_of_every_object_is_noticed_and_repaired(other_rig: Rig) -> None:
    tokens = prompt(600, 110)
    reference, (first, second, first_marker, second_marker) = save_objects(other_rig, tokens)
    _, (strange, strange_marker) = save_objects(other_rig, prompt(300, 111))
    damages = [(path, *item) for path, item in zip(cycle([first, second]), SEGMENT_DAMAGES.items(), strict=False)]
    damages += [
        (path, *item) for path, item in zip(cycle([first_marker, second_marker]), MARKER_DAMAGES.items(), strict=False)
    ]
    damages += [(first, "the next chunk's", replace_by(second)), (second, "another prompt's", replace_by(strange))]
    damages += [(first_marker, "the next chunk's", replace_by(second_marker))]
    damages += [(second_marker, "another prompt's", replace_by(strange_marker))]
    damages += [(second_marker, "a segment", replace_by(second)), (second, "a marker", replace_by(second_marker))]
    for path, name, damage in damages:
        what = f"{path.suffix} {path.name[:6]}: {name}"
        sizes = [(file, file.stat().st_size) for file in (first, second, first_marker, second_marker)]
        damage(path)
        expect_noticed(other_rig, tokens, reference, what)
        assert [(file, file.stat().st_size) for file, _ in sizes] == sizes, what
    other_rig.forget()
    other_rig.expect_hit(tokens, 512, reference)
    assert other_rig.plane.verify()["damaged"] == []


def test_a_removed_segment_costs_one_miss(other_rig: Rig) -> None:
    tokens = prompt(900, 112)
    reference, objects_of = save_objects(other_rig, tokens)
    objects_of[1].unlink()
    failed = other_rig.plane.metric("shadowserve_fetch_requests_total", result="failed_not_found")
    expect_noticed(other_rig, tokens, reference, "second request")
    assert other_rig.plane.metric("shadowserve_fetch_requests_total", result="failed_not_found") == failed + 1
    other_rig.forget()
    other_rig.expect_hit(tokens, 768, reference)


def test_damage_behind_the_back_of_a_stopped_data_plane_is_noticed(other_rig: Rig) -> None:
    tokens = prompt(900, 113)
    reference, objects_of = save_objects(other_rig, tokens)
    assert other_rig.plane.stop() == 0
    for path, damage in zip(
        objects_of, [flip(-1), cut(0.5), os.remove, extend(9), replace_by(objects_of[0])], strict=False
    ):
        damage(path)
    other_rig.plane.start()
    other_rig.plane.wait_for_sessions()
    found = other_rig.plane.verify()
    assert found["damaged_count"] == 4
    wait_for_hit(other_rig, tokens, 768, reference)


@contextlib.contextmanager
def small_file_system(folder: Path) -> Iterator[None]:
    """3 MiB of its own at `folder`."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=777", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_drops_saves_and_nothing_else(fence: Rig) -> None:
    fits, too_much = prompt(300, 120), prompt(2600, 121)
    reference = fence.engine.generate(too_much, OUTPUT_TOKENS, salt="reference")
    folder = fence.plane.folder / "full"
    with small_file_system(folder), fence.plane.serving(store=f"disk://{folder}/store?capacity=1GiB"):
        fits_reference = fence.save(fits)
        assert disagreement(reference, fence.save(too_much)) is None
        assert fence.plane.metric("shadowserve_saves_dropped_total", reason="store_full") > 0
        fence.forget()
        fence.expect_hit(fits, 256, fits_reference)
        assert disagreement(reference, fence.engine.generate(too_much, OUTPUT_TOKENS)) is None
        assert fence.plane.verify()["damaged"] == []
    saved = fence.plane.metric("shadowserve_saves_total", result="stored")
    fence.forget()
    fence.save(too_much)
    assert fence.plane.metric("shadowserve_saves_total", result="stored") == saved + 10


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    owner = folder.stat().st_uid
    folders = [folder, *(path for path in folder.iterdir() if path.is_dir())]
    for path in folders:
        os.chown(path, os.getuid(), -1)
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in folders:
            path.chmod(0o755)
            os.chown(path, owner, -1)


def test_an_unwritable_store_drops_saves_and_goes_on_reading(fence: Rig) -> None:
    known, new = prompt(600, 122), prompt(600, 123)
    reference = fence.save(known)
    new_reference = fence.engine.generate(new, OUTPUT_TOKENS, salt="reference")
    fence.forget()
    with unwritable(fence.plane.store_folder):
        before = fence.plane.metric("shadowserve_saves_dropped_total", reason="store_error")
        assert disagreement(new_reference, fence.save(new)) is None
        assert fence.plane.metric("shadowserve_saves_dropped_total", reason="store_error") == before + 2
        fence.forget()
        fence.expect_hit(known, 512, reference)
    fence.forget()
    fence.save(new)
    wait_for_hit(fence, new, 512)
