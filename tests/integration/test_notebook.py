"""Pools in a notebook, with a real kernel: output in its cell, functions of cells, bars, HTML."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import glasspool
from pools import MakePool

LIMIT_S = 100.0
PROGRAM = Path(__file__).with_name("notebook_program.py")

METHODS = ("fork", "spawn")
"""A fork has a copy of the notebook's functions and streams; under the others a worker has nothing."""

SET_UP = """
import contextlib, io, multiprocessing, os, signal, sys, time
import glasspool

def shout(x):
    print("out", x)
    sys.stderr.write(f"err {x}\\n")
    return x * 2

def die(x):
    print("last words", x)
    os.kill(os.getpid(), signal.SIGKILL)

def late(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    print("late", end="")

def greet(word):
    global greeting
    greeting = word
    print("greeted")

ctx = multiprocessing.get_context(METHOD)
pool = glasspool.Pool(2, greet, ("hello",), context=ctx)
"""

CELLS = [
    SET_UP,
    "print(pool.map(shout, range(3), progress='shouting'))",
    """
try:
    pool.apply(die, (1,))
except glasspool.WorkerDied as error:
    death = error.certificate
death""",
    f"result = pool.apply_async(late, ({'FILE'!r},))",
    "open('FILE', 'w').close(); result.get(); print('another cell')",
    """
def shout(x):
    return Answer(x)

class Answer:
    def __init__(self, x):
        self.x = x

    def more(self, n):
        return Answer(self.x + n)
""",
    """
print([answer.x for answer in pool.map(shout, [1, 2])])
print(pool.apply(Answer(5).more, (6,)).x, type(pool.apply(shout, (1,))) is Answer)
print(pool.apply(lambda answer: answer.x, (Answer(9),)))
""",
    """
caught = io.StringIO()
with contextlib.redirect_stdout(caught):
    pool.map(print, ["a", "b"], chunksize=2)
caught.getvalue()""",
    "pool",
    "pool.close(); pool.join(); pool",
]


def run(cells: list[str], folder: Path) -> list[dict[str, Any]]:
    """Run cells in a kernel of this interpreter."""
    pytest.importorskip("ipykernel")
    places = ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")
    done = subprocess.run(
        [sys.executable, str(PROGRAM)],
        input=json.dumps(cells),
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=True,
        env={**os.environ, **{place: str(folder / place) for place in places}},
    )
    # Below the last line: a kernel's client may print, and so does what shares its standard output.
    found: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index('[{"stdout"') :])
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Return what is seen of pools under two start methods, in one kernel: to start one takes long."""
    folder = tmp_path_factory.mktemp("notebook")
    cells = [
        cell.replace("METHOD", repr(method)).replace("FILE", str(folder / method))
        for method in METHODS
        for cell in CELLS
    ]
    found = run(cells, folder)
    each = len(CELLS)
    return {method: found[at * each :][:each] for at, method in enumerate(METHODS)}


@pytest.mark.parametrize("method", METHODS)
def test_a_notebook_sees_its_workers(method: str, seen: dict[str, list[dict[str, Any]]]) -> None:
    """Everything that a user of a notebook meets first."""
    made, mapped, died, begun, other, _, again, caught, drawn, ended = seen[method]

    # What workers print is below the cell of the call, on the stream that they printed it on.
    assert made["stdout"] == "greeted\n" * 3  # the third one is for the worker that died
    assert made["stderr"] == ""  # no warning of a fork beside the kernel's own threads
    assert sorted(mapped["stdout"].splitlines()) == ["[0, 2, 4]", "out 0", "out 1", "out 2"]
    assert mapped["stdout"].splitlines()[-1] == "[0, 2, 4]"
    assert sorted(mapped["stderr"].splitlines()) == ["err 0", "err 1", "err 2"]
    assert "last words 1" in died["stdout"]
    assert begun["stdout"] == "late"
    assert other["stdout"] == "another cell\n"

    # The bar is drawn anew in place, and is right in the end.
    [bar] = mapped["shown"]
    assert {update["id"] for update in mapped["updates"]} == {bar["id"]}
    assert "3/3" in mapped["updates"][-1]["html"]
    assert mapped["updates"][-1]["text"].startswith("shouting: 100 % (3/3)")

    # What a cell has defined since, or anew, is what runs.
    assert again["error"] is None
    assert again["stdout"].splitlines() == ["[1, 2]", "11 True", "9"]

    assert caught["shown"][0]["text"] == repr("a\nb\n")
    assert "was killed by SIGKILL" in died["shown"][0]["html"]
    assert "worker 1" in drawn["shown"][0]["html"]
    assert "closed" in ended["shown"][0]["html"]


def test_a_pool_draws_itself_whatever_its_state(make_forked: MakePool) -> None:
    """Alive, failed, closed, terminated, half made."""
    pool = make_forked(2)
    iterator = pool.imap(abs, iter([-1, -2]))
    result = pool.apply_async(abs, (-1,))
    mapped = pool.map_async(abs, [-1, -2])
    assert (list(iterator), result.get(), mapped.get()) == ([1, 2], 1, [1, 2])
    for value, words in (
        (pool, "2 workers"),
        (iterator, "2 of 2"),
        (result, "abs"),
        (mapped, "abs"),
    ):
        del words
        assert value._repr_html_().startswith("<div")
    assert "worker 1" in pool._repr_html_()
    assert "2 of 2 ended" in iterator._repr_html_()
    pool.close()
    pool.join()
    assert "closed" in pool._repr_html_()
    assert ">abs<" in result._repr_html_()
    terminated = make_forked(1)
    terminated.terminate()
    assert "terminated" in terminated._repr_html_()
    half = glasspool.Pool.__new__(glasspool.Pool)
    assert "was not made" in half._repr_html_()


def test_in_a_fork_a_pool_is_said_to_be_foreign(make_forked: MakePool) -> None:
    """It is looked at, and nothing is asked of the parent."""
    pool = make_forked(1)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, pool._repr_html_().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        assert f"belongs to process {os.getpid()}" in told.read()
    os.waitpid(pid, 0)
