"""Engines and data plane that the scenarios share: an engine takes tens of seconds to start.

Counted: `engine` (pages of 128 tokens), `other_engine` (pages of 32, little memory, another hash seed), the one
of `fence` (a data plane and a store of its own, short deadline), the one of two ranks in test_tensor_parallel.py, and one
more for each test that needs a fresh one; the whole folder stays under the limit of 12.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dataplane import DataPlane
from engine import Engine
from make_model import write_model
from redis_server import RedisServer, skip_without_redis
from rig import MODEL, PLANE_CORES, Rig, make_engine

NOBODY = 65534


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of its own: one test changes the weights in it."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, MODEL)
    return folder


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    skip_without_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPlane]:
    data_plane = DataPlane(tmp_path_factory.mktemp("plane"), cores=PLANE_CORES)
    data_plane.start()
    yield data_plane
    data_plane.close()


@pytest.fixture(scope="session")
def engine(model: Path, plane: DataPlane) -> Iterator[Engine]:
    with make_engine(model, plane, "engine") as started:
        yield started


@pytest.fixture(scope="session")
def other_engine(model: Path, plane: DataPlane) -> Iterator[Engine]:
    connector = {"lookup_timeout_s": 2, "fetch_deadline_s": 5}
    with make_engine(
        model, plane, "other_engine", page_tokens=32, pages=96, max_model_len=3000, hash_seed="1", connector=connector
    ) as started:
        yield started


@pytest.fixture(scope="session")
def fence_rig(model: Path) -> Iterator[Rig]:
    """For the roughest faults: its data plane runs as nobody where that can be arranged."""
    with tempfile.TemporaryDirectory(prefix="ss-fence-") as folder:
        os.chmod(folder, 0o755)
        user = NOBODY if os.getuid() == 0 else None
        data_plane = DataPlane(Path(folder), cores=PLANE_CORES, user=user)
        data_plane.start()
        connector = {"lookup_timeout_s": 1, "fetch_deadline_s": 1.5}
        try:
            with make_engine(
                model,
                data_plane,
                "fence_engine",
                page_tokens=32,
                pages=224,
                max_model_len=4096,
                connector=connector,
                embeddings=True,
                connector_module="short_deadlines",
            ) as started:
                yield Rig(started, data_plane)
        finally:
            data_plane.close()


@pytest.fixture
def fence(fence_rig: Rig) -> Rig:
    fence_rig.forget()
    return fence_rig


@pytest.fixture
def rig(engine: Engine, plane: DataPlane) -> Rig:
    built = Rig(engine, plane)
    built.forget()
    return built


@pytest.fixture
def other_rig(other_engine: Engine, plane: DataPlane) -> Rig:
    built = Rig(other_engine, plane)
    built.forget()
    return built
