"""Where scoreboards and sockets lie, what killed programs left there, and the clock that tells."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator

from glasspool.engines.local import scoreboard
from glasspool.observe import procfs, running
from glasspool.observe.machine.check import LIMITED, OK, Check
from glasspool.observe.machine.interpreter import user_words

TOPIC = "Pools"

_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), less its final zero
_NAME_BYTES = 40


def checks() -> Iterator[Check]:
    """Look at the folder of scoreboards, the files in it, and the boot id."""
    yield _folder()
    yield _files()
    yield _clock()


def _folder() -> Check:
    path = os.fspath(scoreboard.folder())
    wrong = trouble(path)
    by = "GLASSPOOL_DIR" if os.environ.get("GLASSPOOL_DIR") else "chosen by glasspool"
    facts = {"path": path, "trouble": wrong, "glasspool_dir": os.environ.get("GLASSPOOL_DIR")}
    found = f"{path} ({by}{_owner(path)})"
    if wrong is not None:
        other = next((place for place in scoreboard.folders() if trouble(place) is None), None)
        facts["instead"] = other
        means = (
            f"Scoreboards lie in {other} instead."
            if other is not None
            else "Pools work under fork only, and cannot be seen from another terminal."
        )
        remedy = "Set GLASSPOOL_DIR to a folder that this user may write to (an emptyDir, a tmpfs)."
        return Check("folder", TOPIC, LIMITED, f"{found}: {wrong}", means, remedy, facts=facts)
    if len(os.fsencode(path)) + _NAME_BYTES > _SOCKET_PATH_BYTES:
        means = (
            "The path is too long for a socket: views read the scoreboard, and no names of threads."
        )
        remedy = "Set GLASSPOOL_DIR to a shorter path, the same for programs and for glasspool."
        return Check("folder", TOPIC, LIMITED, found, means, remedy, facts=facts)
    return Check("folder", TOPIC, OK, found, facts=facts)


def trouble(path: str) -> str | None:
    """Say why scoreboards cannot lie in a folder, None if they can. Tried with a file that goes at once."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        above = os.path.dirname(path) or "."
        while not os.path.exists(above):
            above = os.path.dirname(above)
        return _trouble_writing(above)
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(status.st_mode):
        return "it is not a folder"
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        return f"it belongs to user {user_words(status.st_uid)}"
    return _trouble_writing(path)


def _trouble_writing(folder: str) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1))
            file.flush()
    except OSError as error:
        return f"{folder} cannot be written to: {error.strerror or error}"
    return None


def _owner(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return ", made with the first pool"
    return f", {user_words(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o}"


def _files() -> Check:
    listings = running.pools()
    stale = [one.path for one in listings if one.state == "stale"]
    odd = [f"{one.path}: {one.problem}" for one in listings if one.problem and one.state != "stale"]
    alive = len(listings) - len(stale) - len(odd)
    found = (
        f"{alive} running, {len(stale)} left by programs that were killed, {len(odd)} unreadable"
    )
    facts = {"running": alive, "stale": stale, "unreadable": odd}
    if odd:
        means = "They are not pools of this version, and are left alone."
        remedy = f"Look at them, and remove them: {odd[0]}"
        return Check("scoreboards", TOPIC, LIMITED, found, means, remedy, facts=facts)
    means = "The next pool removes what is left." if stale else ""
    return Check("scoreboards", TOPIC, OK, found, means, facts=facts)


def _clock() -> Check:
    boot = procfs.boot_id()
    facts = {"boot_id": boot}
    if boot and scoreboard.process_start_ticks(os.getpid()):
        return Check(
            "clock", TOPIC, OK, f"boot {boot[:8]}, start times of processes told", facts=facts
        )
    return Check(
        "clock",
        TOPIC,
        LIMITED,
        "no boot id, or no start times of processes",
        "A file that a killed program left may be taken for one of a living process with its number.",
        "Mount /proc in the container.",
        facts=facts,
    )
