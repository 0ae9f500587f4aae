"""``glasspool serve``: a real server on the loopback interface, and programs with real pools."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import watched
from glasspool.cli import serve as command
from glasspool.observe import running
from glasspool.snapshot import from_dict
from leaks import nothing_left

LIMIT_S = 60
TOKEN = "a-token-for-tests"
NAME = "<script>alert(1)<"
ROUTES = (
    "/",
    "/api/snapshot",
    "/api/events",
    "/api/history",
    "/api/records",
    "/api/slowest",
    "/api/stack?pid=1",
    "/api/flame",
    "/openapi.json",
    "/metrics",
    "/healthz",
    "/no/such/route",
)

pytestmark = pytest.mark.timeout(LIMIT_S)


class Server:
    """A server in a session of its own."""

    def __init__(self, *words: str, port: int | None = 0, host: str = "127.0.0.1") -> None:
        chosen = [] if port is None else ["--port", str(port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "glasspool", "serve", *words, *chosen, "--json", "--host", host],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "GLASSPOOL_TOKEN": TOKEN},
        )
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        self.told: dict[str, Any] = json.loads(line)
        self.base = self.told["url"].partition("/?")[0]
        self.client = httpx.Client(
            base_url=self.base,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=LIMIT_S,
            trust_env=False,
        )

    def get(self, path: str, **kwds: Any) -> Any:
        """Ask for something, and return the JSON of the answer."""
        answer = self.client.get(path, **kwds)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def now(self) -> dict[str, Any]:
        """Return the state of after this call; for a moment the server gives everybody the same."""
        begun = time.time()
        while (told := self.get("/api/snapshot"))["taken_at"] < begun and not told["past"]:
            select.select([], [], [], 0.05)
        return told

    def end(self) -> None:
        """End the server as Ctrl-C does, and look that it had nothing to complain of."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            said = self.process.communicate(timeout=LIMIT_S)
        finally:
            self.process.kill()
        assert (self.process.returncode, *said) == (0, "", "")


@pytest.fixture
def start() -> Iterator[watched.Start]:
    """Start programs; they end with the test."""
    yield from watched.programs()


@pytest.fixture
def serve(start) -> Iterator[type[Server]]:
    """Start servers; they end with the test, before the programs."""
    made: list[Server] = []

    def serve(*words: str, **kwds: Any) -> Server:
        made.append(Server(*words, **kwds))
        return made[-1]

    yield serve
    for one in made:
        one.end()


@pytest.fixture(scope="module")
def shared_pool(standing_processes: None) -> Iterator[tuple[watched.Program, Server]]:
    """Return a program whose pool has an unusual name, and a server that watches it."""
    with nothing_left():
        starting = watched.programs()
        program = next(starting)("watched_pool", "fork", NAME)
        server = Server(str(program.pid))
        try:
            yield program, server
        finally:
            server.end()
            next(starting, None)


class Events:
    """A connection to the events of a server."""

    def __init__(self, server: Server) -> None:
        self._stream = server.client.stream("GET", f"/api/events?token={TOKEN}")
        self.response = self._stream.__enter__()
        assert self.response.status_code == 200
        self._lines = self.response.iter_lines()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        kind = ""
        for line in self._lines:
            word, _, rest = line.partition(": ")
            if word == "event":
                kind = rest
            elif word == "data":
                yield kind, json.loads(rest)

    def first(self, wanted: str, is_so: Any = lambda value: True) -> Any:
        """Wait for the first event of a kind for which something is so."""
        return next(value for kind, value in self if kind == wanted and is_so(value))

    def close(self) -> None:
        """Leave."""
        self._stream.__exit__(None, None, None)


def raw(server: Server, text: str) -> bytes:
    """Send a request as it is, and return all that is answered."""
    with socket.create_connection(("127.0.0.1", server.told["port"]), LIMIT_S) as line:
        line.sendall(text.replace("\n", "\r\n").encode("latin-1"))
        parts = []
        while part := line.recv(1 << 16):
            parts.append(part)
        return b"".join(parts)


# Who may ask ------------------------------------------------------------------------------------


def test_strangers_get_nothing(shared_pool) -> None:
    """Without the token, by a foreign name, or from a foreign page: 403 and no byte more, on every route."""
    _, server = shared_pool
    port = server.told["port"]
    right = f"Host: 127.0.0.1:{port}\n"
    token = f"Authorization: Bearer {TOKEN}\n"
    wrong = {
        "no token": right,
        "a wrong token": right + "Authorization: Bearer nonsense\n",
        "a part of the token": right + f"Authorization: Bearer {TOKEN[:-1]}\n",
        "another scheme": right + f"Authorization: Basic {TOKEN}\n",
        "another host": f"Host: evil.example:{port}\n{token}",
        "another port": f"Host: 127.0.0.1:{port + 1}\n{token}",
        "no port": f"Host: 127.0.0.1\n{token}",
        "no host": token,
        "two hosts": f"{right}Host: localhost:{port}\n{token}",
        "another origin": f"{right}{token}Origin: http://evil.example\n",
        "another port's origin": f"{right}{token}Origin: http://127.0.0.1:{port + 1}\n",
        "no page's origin": f"{right}{token}Origin: null\n",
        "another site": f"{right}{token}Sec-Fetch-Site: cross-site\n",
    }
    for path in ROUTES:
        for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
            for what, headers in wrong.items():
                if method != "GET" and what not in ("no token", "another host", "another origin"):
                    continue
                lines = (
                    f"{method} {path} HTTP/1.1\n{headers}Content-Length: 0\nConnection: close\n\n"
                )
                head, _, body = raw(server, lines).partition(b"\r\n\r\n")
                status = head.partition(b"\r\n")[0]
                # A request without Host is refused before anybody looks at it.
                allowed = (b"400",) if what in ("no host", "two hosts") else ()
                assert status.split()[1] in (b"403", *allowed), (method, path, what, status)
                if status.split()[1] == b"403":
                    assert body == b"", (method, path, what)
                assert b"glasspool" not in head.lower()
                assert b"access-control" not in head.lower()
    lines = "POST /api/sampling HTTP/1.1\n{}Content-Type: application/json\n{}Content-Length: 12\n"
    lines += 'Connection: close\n\n{{"on": true}}'
    for origin in ("http://evil.example", "null"):
        answer = raw(server, lines.format(right + token, f"Origin: {origin}\n"))
        assert answer.startswith(b"HTTP/1.1 403")
    assert server.get("/api/snapshot")["sampling"] is False
    own = f"Origin: http://127.0.0.1:{port}\n"
    assert raw(server, lines.format(right + token, own)).startswith(b"HTTP/1.1 200")
    assert server.now()["sampling"] is True


def test_those_who_know_the_token(shared_pool) -> None:
    """The token counts in the URL and as a bearer's, by every name that this machine has for itself."""
    _, server = shared_pool
    port = server.told["port"]
    assert server.told["url"] == f"http://127.0.0.1:{port}/?token={TOKEN}"
    for name in ("127.0.0.1", "localhost", "[::1]", "LOCALHOST"):
        lines = f"GET /healthz?token={TOKEN} HTTP/1.1\nHost: {name}:{port}\nConnection: close\n\n"
        assert raw(server, lines).startswith(b"HTTP/1.1 200"), name
    followed = "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\n"
    lines = "GET {}?token={} HTTP/1.1\nHost: 127.0.0.1:{}\n{}Connection: close\n\n"
    shown = raw(server, lines.format("/", TOKEN, port, followed))
    assert shown.startswith(b"HTTP/1.1 200"), "a link to the page may be followed"
    refused = raw(server, lines.format("/api/snapshot", TOKEN, port, followed))
    assert refused.startswith(b"HTTP/1.1 403")


def test_headers(shared_pool) -> None:
    """Nothing is cached, no address with the token goes on, and the page may load nothing from elsewhere."""
    _, server = shared_pool
    for path in ROUTES:
        if path != "/api/events":
            answer = server.client.get(path)
            assert answer.headers["cache-control"] == "no-store", path
            assert answer.headers["referrer-policy"] == "no-referrer", path
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert "default-src 'none'" in answer.headers["content-security-policy"], path
            assert "server" not in answer.headers, path
    policies = {server.client.get("/").headers["content-security-policy"] for _ in range(2)}
    assert len(policies) == 2, "each page has a nonce of its own"
    assert not any("unsafe" in policy or "http" in policy for policy in policies)
    assert server.client.get("/no/such/route").status_code == 404
    assert server.client.post("/api/snapshot").status_code == 405


# What is told -----------------------------------------------------------------------------------


def test_the_answers(shared_pool) -> None:
    """Every route tells of the pool what is true."""
    program, server = shared_pool
    before = from_dict(server.now()).pools[0].stats
    program.do("short 20")
    program.do("fail")
    worker = program.hold()
    told = server.now()
    (pool,) = from_dict(told).pools
    assert (pool.name, pool.pid) == (NAME, program.pid)
    assert pool.stats["done"] - before["done"] == 20
    assert pool.stats["failed"] - before["failed"] == 1
    assert (told["past"], told["problem"], told["text"]) == (False, None, "")
    assert set(told["paces"][NAME]) == {"done_per_s", "failed_per_s", "left_s", "busy_share"}
    shown = running.look(program.pid, stacks=False).snapshot.pools[0]
    assert pool.stats == shown.stats
    assert [p.pid for p in pool.processes] == [p.pid for p in shown.processes]
    assert [(t.name, t.roles) for t in pool.threads] == [(t.name, t.roles) for t in shown.threads]
    records = server.get("/api/records?limit=5")["records"]
    assert len(records) == 5
    failed = [record for record in records if record[5] == "failed"]
    assert [record[4].rpartition(".")[2] for record in failed] == ["failing"]
    assert [record[0] for record in records] == [NAME] * 5
    newest = max(record[7] for record in records)
    assert server.get(f"/api/records?since_ns={newest}")["records"] == []
    slowest = [r[7] - r[6] for r in server.get("/api/slowest")["records"]]
    assert slowest == sorted(slowest, reverse=True)
    assert 21 <= len(slowest) <= 50
    series = server.get("/api/history")["pools"][NAME]
    assert {len(values) for values in series.values()} == {len(series["done"])}
    assert series["running"][-1] == 1
    stack = server.get(f"/api/stack?pid={worker}")
    assert "held" in [frame["function"] for frame in stack["stack"]]
    for bad in ("pid=x", "pid=", "", "pid=-1", "pid=1&tid=y", f"pid={'9' * 30}"):
        assert server.client.get(f"/api/stack?{bad}").status_code == 400, bad
    assert server.client.get(f"/api/stack?pid={os.getpid()}").status_code == 404
    assert server.client.get("/api/records?limit=100001").status_code == 400
    program.do("release")


def test_the_page_without_javascript(shared_pool) -> None:
    """The page is readable by itself, and what users put into names stays text."""
    program, server = shared_pool
    program.hold()
    server.now()
    text = server.client.get("/").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;" in text
    assert "&lt;b&gt;held&lt;/b&gt;" in text
    assert "<b>held" not in text
    assert f">{program.pid}</td>" in text
    with_stacks = server.client.get("/?stacks=1").text
    assert "watched_pool.py:" in with_stacks
    program.do("release")


def test_redacted(serve, start) -> None:
    """With --redact no answer holds an argument."""
    program = start()
    server = serve(str(program.pid), "--redact")
    worker = program.hold()
    for path in ("/", "/?stacks=1", "/api/snapshot", f"/api/stack?pid={worker}"):
        text = server.client.get(path).text
        assert "held" in text, path
        assert "held</b>" not in text, path
        assert "held&lt;/b&gt;" not in text, path
    program.do("release")


def test_events(shared_pool) -> None:
    """A page gets the state at once, each record once, and a killed worker within a second."""
    program, server = shared_pool
    server.now()  # what ended before has been told
    events = Events(server)
    state = events.first("state")
    assert [pool["name"] for pool in state["pools"]] == [NAME]
    program.do("short 30")
    seen = 0
    for kind, value in events:
        if kind == "records":
            seen += len(value["records"]) + value["lost"]
            if seen >= 30:
                break
    assert seen == 30
    worker = program.hold()
    begun = time.monotonic()
    program.do(f"kill {worker}")
    state = events.first("state", lambda state: state["pools"][0]["deaths"])
    assert time.monotonic() - begun < 1.0 + 2.0, "with time to spare for a machine that is busy"
    assert [death["pid"] for death in state["pools"][0]["deaths"]] == [worker]
    events.close()


def test_many_pages_cost_what_one_costs(shared_pool) -> None:
    """However many pages there are, the program is looked at as often as for one."""
    _, server = shared_pool
    pages = [Events(server) for _ in range(10)]
    begun = time.time()
    taken = [[page.first("state")["taken_at"] for _ in range(3)] for page in pages]
    lasted_s = time.time() - begun
    assert server.get("/healthz")["pages"] == 10
    assert len({at for page in taken for at in page}) <= 2 + lasted_s / 0.4
    for page in pages:
        page.close()


def test_sampling(shared_pool) -> None:
    """While it is wanted, stacks are sampled and folded: pools, roles, calls from the outside in."""
    program, server = shared_pool
    program.hold()
    events = Events(server)
    answer = server.client.post("/api/sampling", json={"on": True})
    assert answer.json() == {"on": True}
    assert events.first("state", lambda state: state["sampling"])["pools"]
    while server.get("/api/flame")["samples"] < 2:
        events.first("state")
    assert server.client.post("/api/sampling", json={"on": False}).json() == {"on": False}
    root = server.get("/api/flame")["root"]
    (pool,) = root["children"]
    assert pool["name"] == NAME
    assert pool["value"] == sum(child["value"] for child in pool["children"]) == root["value"]
    names = json.dumps(root)
    assert "held (" in names
    for bad in (b"", b"{}", b"[]", b'{"on": 1}', b"x" * 20_000):
        answer = server.client.post(
            "/api/sampling", content=bad, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (400, 413), bad
    assert server.client.post("/api/sampling", content=b'{"on": true}').status_code == 415
    events.close()
    program.do("release")


def test_the_program_ends(serve, start) -> None:
    """When the program ends the last state stays, marked as past, and pages are told of the end."""
    program = start()
    server = serve(str(program.pid))
    events = Events(server)
    events.first("state")
    os.killpg(program.pid, signal.SIGKILL)
    program.process.wait(LIMIT_S)
    state = events.first("state", lambda state: state["past"])
    assert [pool["name"] for pool in state["pools"]] == ["watched"]
    assert str(program.pid) in events.first("end")["text"]
    late = Events(server)
    assert late.first("state")["past"]
    assert late.first("end")
    told = server.now()
    assert (told["past"], told["problem"]) == (True, "gone")
    assert "The past" in server.client.get("/").text
    assert "glasspool_up 0.0" in server.client.get("/metrics").text
    events.close()
    late.close()


def test_a_stock_pool(serve, start) -> None:
    """A program with a pool of the standard library is shown from outside."""
    program = start("stock_pool", "fork", "busy")
    while program.answer() != "task 8":
        pass
    server = serve(str(program.pid))
    (pool,) = server.get("/api/snapshot")["pools"]
    assert pool["kind"] == "multiprocessing.Pool"
    workers = [process for process in pool["processes"] if process["role"] == "worker"]
    assert len(workers) == 2
    assert [process["state"] for process in workers] == ["busy", "busy"]
    stack = server.get(f"/api/stack?pid={workers[0]['pid']}")
    assert stack["stack"] is None or "work" in [frame["function"] for frame in stack["stack"]]
    assert "multiprocessing.Pool" in server.client.get("/").text
    assert 'glasspool_workers{pool="' in server.client.get("/metrics").text


def test_all_pools(serve, start, glasspool_dir: Path) -> None:
    """Without a number all programs are shown, those too that begin later; garbage is told and harmless."""
    garbage = glasspool_dir / "garbage.1.board"
    garbage.write_bytes(b"GLSPOOL\x02" + os.urandom(30_000))
    try:
        server = serve()
        told = server.get("/api/snapshot")
        assert f"{garbage}: " in told["text"]
        program = start()
        events = Events(server)
        events.first("state", lambda state: program.pid in [p["pid"] for p in state["pools"]])
        events.close()
    finally:
        garbage.unlink()


# Beginning and end ------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run the command where it cannot serve; return exit code and complaint."""
    try:
        code = command.main(words)
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1 or "usage:" in said.err, said.err
    return code, said.err


def test_what_cannot_be_served(capsys: pytest.CaptureFixture[str]) -> None:
    """Each thing that cannot be done is refused with one line that says why, and an exit code."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, why = refused(capsys, "--port", str(port))
        assert code == 2
        assert f"port {port} of 127.0.0.1 is taken" in why
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", "127.0.0.2", ""):
        code, why = refused(capsys, "--host", host)
        assert code == 2
        assert "ssh -L" in why
    for token in ("short", "with a space", "ümläuted", "line\nbreak"):
        code, why = refused(capsys, "--token", token)
        assert code == 2
        assert "--token: give at least 8" in why
    assert refused(capsys, "--port", "70000")[0] == 2
    code, why = refused(capsys, str(2**22 + 1))
    assert code == 3
    assert "no such process" in why
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as no_python:
        code, why = refused(capsys, str(no_python.pid))
        assert code == 4
        assert "not a Python program" in why


def test_the_usual_port(serve) -> None:
    """Without --port, the usual one or the next free one is taken, so two servers go side by side."""
    one, other = serve(port=None), serve(port=None)
    assert one.told["port"] < other.told["port"]
    assert one.get("/healthz")["status"] == other.get("/healthz")["status"] == "ok"


def test_ctrl_c_ends_it_at_once(serve, start) -> None:
    """Ctrl-C ends the server quietly within a second, though pages are open."""
    server = serve(str(start().pid))
    pages = [Events(server) for _ in range(3)]
    for page in pages:
        page.first("state")
    begun = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    server.process.wait(LIMIT_S)
    assert time.monotonic() - begun < 1.0 + 2.0, "with time to spare for a machine that is busy"
    for page in pages:
        page.close()


def test_nobody_reads_its_output(start) -> None:
    """A server whose output nobody reads serves all the same."""
    read, write = os.pipe()
    os.close(read)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "glasspool", "serve", "--port", str(port), "--token", TOKEN],
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(write)
    try:
        deadline = time.monotonic() + LIMIT_S / 2
        while True:
            try:
                url = f"http://127.0.0.1:{port}/healthz?token={TOKEN}"
                assert httpx.get(url, trust_env=False).status_code == 200
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                select.select([], [], [], 0.02)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LIMIT_S)
