"""Whether pools work: a small one is made with each start method, in a program of its own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import glasspool
from glasspool.engines.local import scoreboard
from glasspool.observe.machine.check import LIMITED, NO, OK, Check
from glasspool.observe.machine.places import TOPIC, trouble

LIMIT_S = 30.0

_TRIAL = """
import sys
sys.path.append(sys.argv[2])
import multiprocessing, time, glasspool
begun = time.monotonic()
with glasspool.Pool(2, context=multiprocessing.get_context(sys.argv[1]), name="doctor") as pool:
    assert pool.map(abs, [-1, -2, -3], 1) == [1, 2, 3]
    assert pool.apply(len, (bytes(1 << 20),)) == 1 << 20
print("works", round(time.monotonic() - begun, 3))
"""


def checks() -> Iterator[Check]:
    """Make a pool with each start method, and remark on the default one."""
    default = multiprocessing.get_context().get_start_method()
    for method in multiprocessing.get_all_start_methods():
        yield _method(method, method == default)
    yield _fork_safety(default)


def _method(method: str, is_default: bool) -> Check:
    key = f"start-method.{method}"
    words = f"{method} (the default)" if is_default else method
    begun = time.monotonic()
    took_s, wrong = trial(method)
    facts = {"method": method, "default": is_default, "took_s": took_s, "error": wrong}
    if wrong is None and took_s is not None:
        found = f"{words}: a pool of 2 started, worked and ended in {took_s:.2f} s"
        return Check(key, TOPIC, OK, found, needed=is_default, facts=facts)
    facts["after_s"] = round(time.monotonic() - begun, 3)
    return Check(
        key,
        TOPIC,
        NO if is_default else LIMITED,
        f"{words}: no pool could be made: {wrong}",
        f"Pools with the start method {method} do not work here.",
        "See what is limited above; the error says what was missing.",
        needed=is_default,
        facts=facts,
    )


def trial(method: str) -> tuple[float | None, str | None]:
    """Make a pool in a program of its own; return how long it took, or what went wrong."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(glasspool.__file__)))
    command = [sys.executable, "-c", _TRIAL, method, package]
    place, made = _place()
    environment = os.environ | ({} if place is None else {"GLASSPOOL_DIR": place})
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"it did not end within {LIMIT_S:g} s"
    except OSError as error:
        return None, f"no process could be started: {error.strerror or error}"
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
    word, _, took = done.stdout.strip().rpartition("\n")[2].partition(" ")
    if done.returncode == 0 and word == "works":
        return float(took), None
    said = done.stderr.strip().rpartition("\n")[2]
    return None, said or f"the program ended with code {done.returncode}"


def _place() -> tuple[str | None, str | None]:
    """Return where the trial's scoreboard shall lie, and the folder that was made for it.

    The folder of this user as it is; where there is none yet, or none to be used, one that goes again.
    """
    home = os.fspath(scoreboard.folder())
    if os.path.isdir(home) and trouble(home) is None:
        return None, None
    try:
        made = tempfile.mkdtemp(prefix="glasspool-doctor-")
    except OSError:
        return None, None  # nothing is writable, so nothing can be left behind
    return made, made


def _fork_safety(default: str) -> Check:
    facts = {"default": default, "python": list(sys.version_info[:3])}
    found = f"the default start method is {default}"
    if default != "fork":
        means = "Functions and arguments must be importable or picklable; nothing is inherited."
        return Check("fork-safety", TOPIC, OK, found, means, facts=facts)
    means = (
        "A fork copies locks that other threads hold, and OpenMP may hang in a child once the program "
        "has used it: make the pool first, or take forkserver."
    )
    return Check("fork-safety", TOPIC, OK, found, means, facts=facts)
