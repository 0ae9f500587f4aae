"""A cluster of Dask that encrypts: a pool uses its settings and opens no port; nobody else gets in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from clusters import SOURCE, TESTS, Cluster, DaskCluster, opened

pytestmark = [
    pytest.mark.clusters,
    pytest.mark.timeout(150),
    pytest.mark.one_python,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl"),
]

LIMIT_S = 60

PROGRAM = """
import glasspool
from cluster_tls_tasks import ports

if __name__ == "__main__":
    {before}
    with glasspool.Pool(2, {told}) as pool:
        print(sum(pool.map(ports, range(4), 1), []))
"""


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a CA, and a certificate of this machine."""
    folder = tmp_path_factory.mktemp("papers")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")

    def openssl(*words: str) -> None:
        subprocess.run(
            ["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=LIMIT_S
        )

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(*new, "-subj", "/CN=node", "-keyout", "node.key", "-out", "node.csr")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    openssl("x509", "-req", "-in", "node.csr", "-days", "2", *signed, "-out", "node.pem")
    return folder


def dask_settings(papers: Path) -> dict[str, str]:
    """Return what tells Dask to encrypt, as variables of the environment."""
    tls = "DASK_DISTRIBUTED__COMM__TLS__"
    told = {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}
    told |= {f"{tls}CA_FILE": f"{papers}/ca.pem"}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        told |= {
            f"{tls}{role}__CERT": f"{papers}/node.pem",
            f"{tls}{role}__KEY": f"{papers}/node.key",
        }
    return told


class EncryptedDask(DaskCluster):
    """A scheduler and a worker that speak TLS only."""

    protocol = "tls"

    def __init__(self, settings: dict[str, str]) -> None:
        self.settings: dict[str, str] = settings
        super().__init__(1)

    def environment(self) -> dict[str, str]:
        """Return the environment of the nodes' processes."""
        return super().environment() | self.settings


@pytest.fixture
def dask(papers: Path, leak_check: None) -> Iterator[Cluster]:
    """Return such a cluster of Dask."""
    with opened(lambda: EncryptedDask(dask_settings(papers))) as cluster:
        yield cluster


def run(folder: Path, settings: dict[str, str], told: str, before: str = "") -> tuple[str, str]:
    """Run a program that makes a pool, whose workers tell the ports that they listen on."""
    script = folder / "program.py"
    script.write_text(PROGRAM.format(told=told, before=before))
    paths = os.pathsep.join((str(SOURCE), str(TESTS / "integration")))
    program = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": paths, "RAY_AUTH_MODE": "disabled", **settings},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        return program.communicate(timeout=LIMIT_S)
    finally:
        program.kill()


def listening(cluster: Cluster) -> set[int]:
    """Return the ports on which the processes of a cluster's nodes listen."""
    found: set[int] = set()
    for member in cluster.members:
        for process in member.processes():
            told = process.net_connections("inet")
            found |= {one.laddr.port for one in told if one.status == psutil.CONN_LISTEN}
    return found


def test_dask(dask: Cluster, papers: Path, tmp_path: Path) -> None:
    """Dask's configuration and a Client's Security are used; nobody listens who did not before."""
    before, address = listening(dask), f"engine='dask', address={dask.address!r}"
    assert dask.address.startswith("tls://")
    assert run(tmp_path, dask_settings(papers), address)[0] == "[]\n"
    security = (
        f"tls_ca_file='{papers}/ca.pem', tls_client_cert='{papers}/node.pem', "
        f"tls_client_key='{papers}/node.key', require_encryption=True"
    )
    client = (
        "from distributed import Client, Security; "
        f"client = Client({dask.address!r}, security=Security({security}))"
    )
    assert run(tmp_path, {}, "engine=client", client)[0] == "[]\n"
    assert listening(dask) == before


def test_dask_without_certificates(dask: Cluster, tmp_path: Path) -> None:
    """A program without a certificate, or with one that cannot be loaded, is told at once."""
    address = f"engine='dask', address={dask.address!r}"
    told = run(tmp_path, {}, address)[1]
    assert "EngineUnavailable" in told.splitlines()[-1]
    assert "names no certificate" in told
    missing = dask_settings(tmp_path / "nowhere")
    assert "cannot be loaded" in run(tmp_path, missing, address)[1].splitlines()[-1]
