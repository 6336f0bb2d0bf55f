"""The control plane over TCP with mutual TLS: a real data plane, shadowctl and the client library, certificates by openssl."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dataplane import CONTROL, DataPlane, free_port
from shadowserve._core import KvManager, Refused

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")


def make_certificates(folder: Path) -> None:
    """ca and stranger are authorities; server and client are signed by ca, intruder by stranger."""

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for ca in ("ca", "stranger"):
        run("req", "-x509", "-days", "2", *key, "-subj", f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.crt")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for who, ca in (("server", "ca"), ("client", "ca"), ("intruder", "stranger")):
        run("req", "-new", *key, "-subj", f"/CN={who}", "-keyout", f"{who}.key", "-out", f"{who}.csr")
        run(
            *("x509", "-req", "-days", "2", "-in", f"{who}.csr", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key"),
            *("-CAcreateserial", "-extfile", "names", "-out", f"{who}.crt"),
        )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def plane(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPlane]:
    data_plane = DataPlane(
        tmp_path_factory.mktemp("plane"),
        store="memory://?capacity=16MiB",
        listen=f"tcp://127.0.0.1:{free_port()}",
        environment={
            "SHADOWSERVE_TLS_CA_FILE": f"{certificates}/ca.crt",
            "SHADOWSERVE_TLS_CERT_FILE": f"{certificates}/server.crt",
            "SHADOWSERVE_TLS_KEY_FILE": f"{certificates}/server.key",
        },
    )
    data_plane.start()
    yield data_plane
    data_plane.close()


def ask(address: str, certificates: Path, ca: str | None, who: str | None) -> subprocess.CompletedProcess[str]:
    command = [str(CONTROL), "--connect", address]
    if ca is not None:
        command += ["--tls-ca-file", f"{certificates}/{ca}.crt"]
    if who is not None:
        command += ["--tls-cert-file", f"{certificates}/{who}.crt", "--tls-key-file", f"{certificates}/{who}.key"]
    return subprocess.run([*command, "status"], capture_output=True, text=True, timeout=60)


def test_shadowctl_with_a_certificate_of_the_authority_is_served(plane: DataPlane, certificates: Path) -> None:
    run = ask(plane.address, certificates, "ca", "client")
    assert run.returncode == 0, run.stderr
    assert "memory://" in run.stdout


@pytest.mark.parametrize(
    ("ca", "who"),
    [(None, None), ("ca", "intruder"), ("stranger", "client")],
    ids=["without TLS", "certificate of another authority", "data plane of another authority"],
)
def test_who_does_not_belong_is_not_served(
    plane: DataPlane, certificates: Path, ca: str | None, who: str | None
) -> None:
    run = ask(plane.address, certificates, ca, who)
    assert run.returncode == 3, run.stdout
    # gRPC's own library may have put a line of its own in front.
    assert run.stderr.splitlines()[-1].startswith(f"shadowctl: cannot reach the data plane at {plane.address}: ")


def test_the_data_planes_certificate_must_hold_the_host_that_was_asked_for(
    plane: DataPlane, certificates: Path
) -> None:
    address = plane.address.replace("127.0.0.1", "localhost")
    assert ask(address, certificates, "ca", "client").returncode == 3


def test_a_client_with_tls_says_nothing_to_a_plain_data_plane(certificates: Path, tmp_path: Path) -> None:
    plain = DataPlane(tmp_path, store="memory://?capacity=16MiB", listen=f"tcp://127.0.0.1:{free_port()}")
    plain.start()
    try:
        assert ask(plain.address, certificates, "ca", "client").returncode == 3
        assert ask(plain.address, certificates, None, None).returncode == 0
        assert "neither encryption nor access control" in plain.log.read_text()
    finally:
        plain.close()


@pytest.mark.parametrize(
    ("ca", "who", "text"),
    [("ca", None, "all three"), ("missing", "client", "missing.crt"), ("ca", "none", "none.crt")],
)
def test_shadowctl_names_files_that_cannot_work(
    plane: DataPlane, certificates: Path, ca: str, who: str | None, text: str
) -> None:
    run = ask(plane.address, certificates, ca, who)
    assert run.returncode == 2
    assert text in run.stderr


def manager(address: str, certificates: Path, who: str) -> KvManager:
    return KvManager(
        {
            "data_plane": address,
            "tls_ca_file": f"{certificates}/ca.crt",
            "tls_cert_file": f"{certificates}/{who}.crt",
            "tls_key_file": f"{certificates}/{who}.key",
            "engine_id": f"tls-{who}",
            "root": bytes(32),
            "layers": 2,
            "kv_heads": 2,
            "head_dim": 8,
            "dtype": "bf16",
            "page_tokens": 128,
            "world_size": 1,
            "profile": "",
            "lookup_timeout_s": 1.0,
            "fetch_deadline_s": 5.0,
            "save_deadline_s": 5.0,
            "min_hit_tokens": 256,
            "save": True,
            "early_write": True,
            "max_load_tokens": 4096,
        }
    )


def test_an_engines_session_runs_over_tls_and_comes_back_after_a_restart(plane: DataPlane, certificates: Path) -> None:
    engine = manager(plane.address, certificates, "client")
    try:
        assert engine.wait_ready(30)
        plane.restart()
        assert engine.wait_ready(30)
    finally:
        engine.close()


def test_an_engine_that_does_not_belong_gets_no_session(plane: DataPlane, certificates: Path) -> None:
    engine = manager(plane.address, certificates, "intruder")
    try:
        assert not engine.wait_ready(1)
    finally:
        engine.close()


def test_an_engine_learns_at_start_that_its_key_is_open_to_every_user(
    plane: DataPlane, certificates: Path, tmp_path: Path
) -> None:
    for name in ("ca.crt", "client.crt", "client.key"):
        shutil.copy2(certificates / name, tmp_path)
    (tmp_path / "client.key").chmod(0o644)
    with pytest.raises(Refused, match="lets every user at the key"):
        manager(plane.address, tmp_path, "client")
