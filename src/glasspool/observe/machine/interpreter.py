"""The platform, the interpreter, and which packages are there."""

from __future__ import annotations

import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata

from glasspool._version import __version__
from glasspool.observe.machine.check import LIMITED, OK, Check

TOPIC = "Python and packages"

_FOR_DEVELOPERS = ("test", "dev")
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(?:\[(?P<extras>[^]]*)\])?\s*(?:\(?\s*>=\s*(?P<least>[\d.]+))?"
)
_EXTRA = re.compile(r"extra\s*==\s*['\"](?P<extra>[\w.-]+)['\"]")


def checks() -> Iterator[Check]:
    """Look at the platform, the interpreter and the packages."""
    yield _platform()
    yield _python()
    yield from _packages()


def _platform() -> Check:
    library = " ".join(word for word in platform.libc_ver() if word)
    found = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts = {"system": platform.system(), "release": platform.release(), "libc": library}
    if sys.platform != "linux":
        return Check(
            "platform",
            TOPIC,
            LIMITED,
            found,
            "Not tested here; what processes and threads do is told from psutil, in less detail.",
            "Run it on Linux where you can.",
            facts=facts,
        )
    found += f", {library}" if library else ", not glibc"
    return Check("platform", TOPIC, OK, found, facts=facts)


def _python() -> Check:
    name = sys.implementation.name
    version = platform.python_version()
    free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    debug = hasattr(sys, "gettotalrefcount")
    venv = sys.prefix != sys.base_prefix
    words = [f"{platform.python_implementation()} {version}"]
    words.append("free-threaded build" if free else "with the interpreter lock (GIL)")
    words += ["debug build"] if debug else []
    words.append(
        f"virtual environment {sys.prefix}" if venv else f"no virtual environment, {sys.prefix}"
    )
    limits = []
    if name != "cpython":
        limits.append(
            "glasspool is tested with CPython only, and stacks from outside are CPython's"
        )
    if free:
        limits.append("free-threaded builds are not tested")
    if debug:
        limits.append("a debug build is several times slower")
    facts = {
        "version": version,
        "implementation": name,
        "executable": sys.executable,
        "gil": not free,
        "debug": debug,
        "venv": venv,
    }
    if limits:
        text = "; ".join(limits)
        means = f"{text[0].upper()}{text[1:]}."
        remedy = "Use a release build of CPython 3.11 to 3.13."
        return Check("python", TOPIC, LIMITED, ", ".join(words), means, remedy, facts=facts)
    return Check("python", TOPIC, OK, ", ".join(words), facts=facts)


def _packages() -> Iterator[Check]:
    try:
        told = metadata.metadata("glasspool")
    except metadata.PackageNotFoundError:
        yield Check(
            "glasspool",
            TOPIC,
            LIMITED,
            f"{__version__}, run from its source, not installed",
            "Which extras there are is not known; ps, stack and why need py-spy for stacks.",
            "pip install glasspool[attach]",
            facts={"version": __version__, "installed": False},
        )
        return
    lines = [str(line) for line in told.get_all("Requires-Dist") or ()]
    yield _package("glasspool", f"glasspool {__version__}", _required(lines, None), None)
    for extra in told.get_all("Provides-Extra") or ():
        if extra not in _FOR_DEVELOPERS:
            key = f"extra.{extra}"
            yield _package(key, f"extra {extra}", _required(lines, str(extra)), str(extra))


def _package(key: str, title: str, required: dict[str, str | None], extra: str | None) -> Check:
    there = {name: _installed(name) for name in required}
    missing = [name for name, version in there.items() if version is None]
    old = [
        f"{name} {version} (needs {required[name]})"
        for name, version in there.items()
        if version is not None and _is_older(version, required[name])
    ]
    found = ", ".join(f"{name} {version}" for name, version in there.items() if version is not None)
    facts = {"packages": there, "version": __version__ if extra is None else None}
    if not missing and not old:
        return Check(key, TOPIC, OK, f"{title}: {found}" if found else title, facts=facts)
    wrong = [f"not installed: {', '.join(missing)}"] if missing else []
    wrong += [f"too old: {', '.join(old)}"] if old else []
    package = "glasspool" if extra is None else f"glasspool[{extra}]"
    means = "Values that plain pickle refuses, views or figures may be missing."
    if extra is not None:
        means = _WITHOUT.get(extra, "What needs it says so when it is asked for.")
    return Check(
        key,
        TOPIC,
        LIMITED,
        f"{title}: {'; '.join(wrong)}" + (f" (there: {found})" if found else ""),
        means,
        f"pip install {'--upgrade ' if old else ''}{package}",
        facts=facts,
    )


_WITHOUT = {
    "attach": "Stacks of other programs, and the sizes of native thread pools, are not shown.",
    "native": "Stacks of native threads are not shown.",
}


def _required(
    lines: list[str], extra: str | None, seen: tuple[str, ...] = ()
) -> dict[str, str | None]:
    """Return which packages an extra (or the plain install) needs, and from which version on."""
    needed: dict[str, str | None] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        of = _EXTRA.search(marker)
        if (of["extra"] if of else None) != extra:
            continue
        found = _REQUIREMENT.match(requirement.strip())
        if found is None:
            continue
        if found["name"] != "glasspool":
            needed[found["name"]] = found["least"]
            continue
        # An extra may be made of others: glasspool[top,web].
        for other in (word.strip() for word in (found["extras"] or "").split(",")):
            if other and other not in (*seen, extra):
                needed |= _required(lines, other, (*seen, other))
    return needed


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _is_older(version: str, least: str | None) -> bool:
    if least is None:
        return False

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", text)[:3])

    return numbers(version) < numbers(least)


def user_words(uid: int) -> str:
    """Name a user, by number where the system has no name."""
    try:
        import pwd

        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except (ImportError, KeyError):
        return str(uid)


def effective_uid() -> int | None:
    """Return the user that this process acts as, None on a system that has no such numbers."""
    return os.geteuid() if hasattr(os, "geteuid") else None
