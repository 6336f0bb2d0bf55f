"""`auth.key_file` through the programs: `shadowctl verify` judges by the daemon's keys. Needs no engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dataplane import DataPlane

GOLDEN = Path(__file__).parents[2] / "src/format/testdata"
KEY = bytes(range(32)).hex()  # key 7 of the golden objects
OTHER = bytes(range(64, 96)).hex()
OBJECTS = len(list(GOLDEN.glob("*.gmac.*.hex")))  # as many as with the other cipher


def place(folder: Path, file: Path) -> None:
    """Puts a golden object where a disk store keeps its name."""
    name, *lines = file.read_text().split()
    relative = name.removeprefix("ss1:{").replace("}", "").replace(":", ".")
    path = folder / relative[:2] / relative
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes.fromhex("".join(lines)))


Start = Callable[[str | None], DataPlane]


@pytest.fixture(params=["gmac", "aes-256-gcm"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts a data plane with a key file of this text, over a store of the golden objects sealed like this."""
    planes: list[DataPlane] = []

    def begin(keys: str | None) -> DataPlane:
        folder = tmp_path / str(len(planes))
        (folder / "store").mkdir(parents=True)
        for file in GOLDEN.glob(f"*.{request.param}.*.hex"):
            place(folder / "store", file)
        environment = {}
        if keys is not None:
            key_file = folder / "keys"
            key_file.touch(0o600)
            key_file.write_text(keys)
            environment = {"SHADOWSERVE_AUTH_KEY_FILE": str(key_file), "SHADOWSERVE_AUTH_CIPHER": request.param}
        plane = DataPlane(folder, store=f"disk://{folder}/store?capacity=1GiB", environment=environment)
        planes.append(plane)
        plane.start()
        return plane

    yield begin
    for plane in planes:
        plane.close()


def test_verify_finds_sealed_objects_sound_with_any_of_their_keys(start: Start) -> None:
    assert OBJECTS > 0
    for keys in (f"7:{KEY}\n", f"# new first\n9:{OTHER}\n7:{KEY}\n"):
        found = start(keys).verify()
        assert (found["checked"], found["damaged"]) == (OBJECTS, [])


def test_verify_finds_all_of_them_damaged_without_their_key(start: Start) -> None:
    for keys in (None, f"9:{OTHER}\n", f"7:{OTHER}\n"):
        assert len(start(keys).verify()["damaged"]) == OBJECTS


def test_the_log_shows_no_key(start: Start) -> None:
    plane = start(f"7:{KEY}\n")
    plane.verify()
    assert plane.stop() == 0
    assert KEY not in plane.log.read_text()
