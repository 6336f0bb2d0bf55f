"""shadowserved as a program: what it refuses at start, and what it costs when nothing happens."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from dataplane import CONTROL, DAEMON, DataPlane
from rig import Rig, prompt


@dataclass
class Refusal:
    """A way to start the program that can never work, and the word that its only line must hold."""

    name: str
    word: str
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    config: str | None = None


REFUSALS = [
    Refusal("unknown option", "--colour", ["--colour"]),
    Refusal("option without its value", "--store", ["--store"]),
    Refusal("bad address", "nonsense", ["--listen", "nonsense"]),
    Refusal("address without a port", "--listen: '127.0.0.1'", ["--listen", "tcp://127.0.0.1"]),
    Refusal("users that are none", "SHADOWSERVE_LISTEN_UIDS", environment={"SHADOWSERVE_LISTEN_UIDS": "alice"}),
    Refusal("users that could never connect", "listen_mode", config='listen_uids = "70000"\n'),
    Refusal("certificates of a unix socket", "tcp://", config='[tls]\nca_file = "/ca"\n'),
    Refusal(
        "a certificate without its key",
        "all three",
        ["--listen", "tcp://127.0.0.1:0"],
        config='[tls]\nca_file = "/ca"\n',
    ),
    Refusal(
        "certificates that are none",
        "tls: {folder}/file: no certificate",
        ["--listen", "tcp://127.0.0.1:0"],
        config='[tls]\nca_file = "{folder}/file"\ncert_file = "{folder}/file"\nkey_file = "{folder}/file"\n',
    ),
    Refusal("bad metrics address", "--metrics", ["--metrics", "nowhere"]),
    Refusal("bad log level", "loud", ["--log-level", "loud"]),
    Refusal("CPU list that is none", "3-1", ["--cores", "3-1"]),
    Refusal("unknown kind of store", "floppy", ["--store", "floppy:///a"]),
    Refusal("store without a directory", "disk://", ["--store", "disk://?capacity=1GiB"]),
    Refusal("unknown option of the store", "colour", ["--store", "memory://?colour=red"]),
    Refusal("bad capacity", "capacity", ["--store", "memory://?capacity=much"]),
    Refusal("store at a file", "{folder}/file", ["--store", "disk://{folder}/file"]),
    Refusal("store below a file", "{folder}/file/store", ["--store", "disk://{folder}/file/store"]),
    Refusal("store that another one uses", "{folder}/used", ["--store", "disk://{folder}/used"]),
    Refusal("fault option without faults", "fault.drop", ["--store", "memory://?fault.drop=0.1"]),
    Refusal("unknown variable", "SHADOWSERVE_COLOUR", environment={"SHADOWSERVE_COLOUR": "red"}),
    Refusal("bad value of a variable", "SHADOWSERVE_CODEC_PROFILE", environment={"SHADOWSERVE_CODEC_PROFILE": "q9"}),
    Refusal("bad codec", "codec.lossless", config='[codec]\nlossless = "lz4"\n'),
    Refusal("unknown key", "codec.colour", config='[codec]\ncolour = "red"\n'),
    Refusal("unknown section", "colours", config="[colours]\nred = 1\n"),
    Refusal("value of a wrong type", "fetch.deadline_s", config='[fetch]\ndeadline_s = "soon"\n'),
    Refusal("value out of bounds", "memory.save_share", config="[memory]\nsave_share = 0.9\n"),
    Refusal("budget that holds no slabs", "memory.slab_budget", config='[memory]\nslab_budget = "1MiB"\n'),
    Refusal("layout of head groups", "format.head_groups", config="[format]\nhead_groups = 0\n"),
    Refusal("missing keys", "auth.key_file: {folder}/none", config='[auth]\nkey_file = "{folder}/none"\n'),
    Refusal("keys in a folder", "auth.key_file: {folder}", config='[auth]\nkey_file = "{folder}"\n'),
    Refusal("keys that others may read", "mode 0644", config='[auth]\nkey_file = "{folder}/keys"\n'),
    Refusal("unknown cipher", "auth.cipher", config='[auth]\ncipher = "rot13"\n'),
    Refusal("cipher without keys", "auth.cipher", config='[auth]\ncipher = "aes-256-gcm"\n'),
    Refusal("broken file", "{folder}/config.toml", config="[codec\n"),
    Refusal("missing file", "{folder}/none.toml", ["--config", "{folder}/none.toml"]),
]


@pytest.fixture(scope="module")
def busy_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a file, keys that others may read, and a store in use."""
    folder = tmp_path_factory.mktemp("refusals")
    (folder / "file").write_text("no store")
    (folder / "keys").write_text(f"1:{'0123456789abcdef' * 4}\n")
    (folder / "keys").chmod(0o644)
    user = DataPlane(folder / "other", store=f"disk://{folder}/used")
    user.start()
    yield folder
    user.close()


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_what_can_never_work_is_refused_in_one_line_that_names_it(refusal: Refusal, busy_folder: Path) -> None:
    arguments = [text.replace("{folder}", str(busy_folder)) for text in refusal.arguments]
    if refusal.config is not None:
        file = busy_folder / "config.toml"
        file.write_text(refusal.config.replace("{folder}", str(busy_folder)))
        arguments += ["--config", str(file)]
    if "--listen" not in arguments:
        arguments = ["--listen", f"unix://{busy_folder}/s", *arguments]
    run = subprocess.run(
        [str(DAEMON), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"SHADOWSERVE_LOG_LEVEL": "off"} | refusal.environment,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert len(run.stderr.splitlines()) == 1
    assert refusal.word.replace("{folder}", str(busy_folder)) in run.stderr


@pytest.mark.parametrize(("uids", "status"), [("", 1), ("65534", 0), ("any", 0)])
def test_another_user_is_served_only_when_the_settings_say_so(tmp_path: Path, uids: str, status: int) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to ask as another user")
    settings = {"SHADOWSERVE_LISTEN_MODE": "0666", "SHADOWSERVE_LISTEN_UIDS": uids}
    plane = DataPlane(tmp_path, store="memory://?capacity=16MiB", environment=settings)
    plane.start()
    try:
        socket = Path(plane.address.removeprefix("unix://"))
        socket.parent.chmod(0o755)
        with tempfile.TemporaryDirectory() as folder:  # the build may lie where only its owner looks
            Path(folder).chmod(0o755)
            program = shutil.copy2(CONTROL, folder)
            command = [program, "--connect", plane.address, "status"]
            run = subprocess.run(command, capture_output=True, text=True, timeout=30, user=65534, group=65534)
        assert run.returncode == status, run.stderr
        assert ("listen_uids" in run.stderr) == (status != 0)
    finally:
        plane.close()


@pytest.mark.engine
def test_an_idle_data_plane_with_an_engine_uses_no_processor(other_rig: Rig) -> None:
    def used() -> dict[str, float]:
        return other_rig.plane.cpu_seconds()

    def between(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
        return {thread: after[thread] - before.get(thread, 0) for thread in after}

    tokens = prompt(700, 90)
    reference = other_rig.save(tokens)
    other_rig.forget()
    before = used()
    other_rig.expect_hit(tokens, 512, reference)
    assert sum(between(before, used()).values()) > 0.0005  # the clock does run
    for _ in range(5):  # one quiet window proves it; a busy machine may spoil some
        before = used()
        time.sleep(2)
        shares = {thread: seconds / 2 for thread, seconds in between(before, used()).items()}
        if sum(shares.values()) < 0.01:
            break
    assert sum(shares.values()) < 0.01, shares
