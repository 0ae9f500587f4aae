"""What the doctor concludes: which container, how much is left, and its table."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from glasspool.cli import doctor
from glasspool.engines.local import oom
from glasspool.observe import procfs, rights
from glasspool.observe.machine import container, interpreter, limits, places, reading
from glasspool.observe.machine.check import LIMITED, NO, OK, Check, size_words
from glasspool.snapshot import as_plain


@pytest.mark.parametrize(
    ("files", "environment", "expected"),
    [
        ({}, {}, ()),
        ({".dockerenv": ""}, {}, ("Docker",)),
        ({"run/.containerenv": ""}, {"container": "podman"}, ("Podman",)),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ("Kubernetes",)),
        ({"proc/self/cgroup": "0::/kubepods/burstable/pod1/abc\n"}, {}, ("Kubernetes",)),
        ({"proc/self/cgroup": "4:memory:/docker/abc\n", ".dockerenv": ""}, {}, ("Docker",)),
        ({"proc/self/cgroup": "0::/system.slice/ssh.service\n"}, {}, ()),
        ({}, {"AWS_LAMBDA_FUNCTION_NAME": "f"}, ("AWS Lambda",)),
    ],
)
def test_kinds_of_containers(
    tmp_path: Path, files: dict[str, str], environment: dict[str, str], expected: tuple[str, ...]
) -> None:
    """Each leaves its mark; what says the same twice is told once."""
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert container.kinds(str(tmp_path), environment) == expected


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a cgroup that stands for this process's, below two others."""
    folder = tmp_path / "above" / "own"
    folder.mkdir(parents=True)
    for one in (folder, folder.parent):
        (one / "cgroup.procs").touch()
    monkeypatch.setattr(oom, "groups_of", lambda pid: {"": "/above/own"})
    monkeypatch.setattr(oom, "folder_of", lambda kind, path: str(folder))
    return folder


def test_the_limit_with_the_least_left_counts(group: Path) -> None:
    """A group is also bound by those above it, and by what others use there."""
    for name, text in (("pids.max", "100"), ("pids.current", "10")):
        (group / name).write_text(text + "\n")
    assert container.pids_bound() == container.Bound(100, 10, f"{group}/pids.max")
    for name, text in (("pids.max", "200"), ("pids.current", "195")):
        (group.parent / name).write_text(text + "\n")
    assert container.pids_bound() == container.Bound(200, 195, f"{group.parent}/pids.max")
    [check] = [one for one in container.checks() if one.key == "pids"]
    assert check.mark == LIMITED
    assert check.means.startswith("5 more can be started")


def test_little_memory_left_is_told(group: Path) -> None:
    """The limit of the container counts, not what the machine has."""
    for name, text in (("memory.max", "100000000"), ("memory.current", "95000000")):
        (group / name).write_text(text + "\n")
    [check] = [one for one in container.checks() if one.key == "memory"]
    assert check.mark == LIMITED
    assert "100 MB (the container's limit), 95.0 MB in use" in check.found


@pytest.mark.parametrize("text", ["max", "", "9223372036854771712"])
def test_no_limit_is_none(group: Path, text: str) -> None:
    """Version 2 writes ``max``, version 1 the largest number."""
    (group / "memory.max").write_text(text)
    (group / "memory.current").write_text("1")
    assert container.memory_bound() is None


def test_a_quota_below_the_affinity_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numeric libraries do not know of it."""
    for name, value in (("allowed_processors", 8), ("quota_of", 1.5), ("usable_processors", 2)):
        monkeypatch.setattr(container, name, lambda value=value: value)
    [check] = [one for one in container.checks() if one.key == "processors"]
    assert check.mark == LIMITED
    assert "the cgroup's quota is 1.5" in check.found
    assert "OMP_NUM_THREADS" in (check.remedy or "")


REQUIRES = [
    "cloudpickle>=3.0",
    "py-spy>=0.4; extra == 'attach'",
    "threadpoolctl >= 3.5 ; extra == 'attach'",
    "nothing-like-this>=1; extra == 'top'",
    "glasspool[attach,top]; extra == 'all'",
    "pytest>=8; extra == 'test'",
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let the packages be those of a dict."""
    versions = {"cloudpickle": "3.1", "py-spy": "0.4.3", "threadpoolctl": "3.8.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    told = SimpleNamespace(
        get_all=lambda key: {
            "Requires-Dist": REQUIRES,
            "Provides-Extra": ["attach", "top", "all", "test"],
        }[key]
    )
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "metadata", lambda name: told)
    return versions


def packages() -> dict[str, Check]:
    """Return the checks of packages by key."""
    return {check.key: check for check in interpreter._packages()}


def test_extras_are_those_of_the_metadata(installed: dict[str, str]) -> None:
    """What is missing is named with the line that installs it; the developers' extras are left out."""
    found = packages()
    assert list(found) == ["glasspool", "extra.attach", "extra.top", "extra.all"]
    assert found["glasspool"].mark == found["extra.attach"].mark == OK
    assert found["extra.attach"].found == "extra attach: py-spy 0.4.3, threadpoolctl 3.8.0"
    assert found["extra.top"].mark == found["extra.all"].mark == LIMITED
    assert found["extra.top"].remedy == "pip install glasspool[top]"
    assert "nothing-like-this" in found["extra.all"].found
    assert "py-spy 0.4.3" in found["extra.all"].found


def test_a_missing_and_an_old_package(installed: dict[str, str]) -> None:
    """Without py-spy there are no stacks: that is said, not only the package's name."""
    del installed["py-spy"]
    installed["threadpoolctl"] = "2.9"
    check = packages()["extra.attach"]
    assert check.mark == LIMITED
    assert "not installed: py-spy" in check.found
    assert "threadpoolctl 2.9 (needs 3.5)" in check.found
    assert "Stacks of other programs" in check.means
    assert check.remedy == "pip install --upgrade glasspool[attach]"


def test_a_package_that_is_not_installed_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout on the path has no metadata."""

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", missing)
    [check] = interpreter._packages()
    assert check.mark == LIMITED
    assert check.remedy == "pip install glasspool[attach]"


@pytest.mark.parametrize(
    ("soft", "hard", "mark", "remedy"),
    [
        (-1, -1, OK, None),
        (1024, 4096, OK, None),
        (100, 100000, LIMITED, "ulimit -n 4096"),
        (100, -1, LIMITED, "ulimit -n 4096"),
        (100, 100, LIMITED, "Raise the hard limit"),
    ],
)
def test_descriptors(soft: int, hard: int, mark: str, remedy: str | None) -> None:
    """What cannot be raised by the user himself is said to need somebody else."""
    check = limits._descriptors(soft, hard)
    assert check.mark == mark
    assert (check.remedy or "").startswith(remedy or "")


def test_memory_files_that_are_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool works with files in their place; without these it does not."""

    def denied(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(limits.os, "memfd_create", denied, raising=False)
    check = limits._memory_files()
    assert (check.mark, check.needed) == (LIMITED, False)
    monkeypatch.setattr(limits.segments, "new_file", denied)
    check = limits._memory_files()
    assert (check.mark, check.needed) == (NO, True)


def test_trouble_with_a_folder(tmp_path: Path) -> None:
    """A file, a folder of one's own, one that is not there yet."""
    file = tmp_path / "file"
    file.touch()
    assert places.trouble(str(file)) == "it is not a folder"
    assert places.trouble(str(tmp_path)) is None
    assert places.trouble(str(tmp_path / "a" / "b")) is None
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (64 << 20, "67.1 MB"), (2.5e9, "2.5 GB"), (3e15, "3000.0 TB")],
)
def test_sizes_in_words(count: float, words: str) -> None:
    """Decimal units."""
    assert size_words(count) == words


CHECKS = (
    Check("python", "One", OK, "CPython", "Good."),
    Check("extra.attach", "One", LIMITED, "py-spy is missing", "No stacks.", "pip install it"),
    Check("start-method.fork", "Two", NO, "no\033[31m process", "No pools.", needed=True),
)


def test_the_table() -> None:
    """A topic is told once; what is ok is one paragraph, what is limited has a line for each part."""
    assert doctor.table(CHECKS, 80, color=False).splitlines() == [
        "One",
        "  ok       python         CPython. Good.",
        "  limited  attach         py-spy is missing",
        "                          No stacks.",
        "                          do: pip install it",
        "",
        "Two",
        "  no       fork           no?[31m process",
        "                          No pools.",
        "",
        "Pools do not work here: start-method.fork.",
    ]


def test_colours_are_for_marks_only() -> None:
    """Columns stay aligned with them."""
    text = doctor.table(CHECKS[:2], 80, color=True)
    assert "\033[32mok      \033[0m python         CPython. Good." in text
    assert text.count("\033[") == 4
    assert text.endswith("All that a pool needs works; 1 thing is limited.")


def test_lines_fit_the_width() -> None:
    """Long texts are wrapped at blanks; an address is never broken."""
    long = Check("python", "One", OK, "word " * 40 + "/a" * 60, "end " * 30)
    for line in doctor.table([long], 72, color=False).splitlines():
        assert len(line) <= 72 or line.strip().startswith("/a")


def test_json_of_checks() -> None:
    """All of it is plain."""
    assert json.loads(json.dumps([as_plain(check) for check in CHECKS]))[2]["needed"] is True


@pytest.mark.parametrize("word", ["0", "-1", "x", "99999999999", "²"])
def test_bad_numbers(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A word that is no process number is bad usage."""
    with pytest.raises(SystemExit) as caught:
        doctor.main(["--", word])
    assert caught.value.code == 2
    assert "is no process number" in capsys.readouterr().err


def test_the_help_has_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts rely on them."""
    with pytest.raises(SystemExit):
        doctor.main(["--help"])
    text = capsys.readouterr().out
    assert "1  something that a pool needs does not work" in text
    assert "3  no such process" in text


@pytest.mark.parametrize(
    ("scope", "entitled", "mark"),
    [
        (None, False, OK),
        (0, False, OK),
        (1, False, LIMITED),
        (2, False, LIMITED),
        (1, True, OK),
        (3, True, LIMITED),
    ],
)
def test_yama(scope: int | None, entitled: bool, mark: str) -> None:
    """Who has the right to trace passes scopes 1 and 2, nobody passes 3."""
    check = reading._yama(scope, entitled)
    assert check.mark == mark
    assert (check.remedy is None) == (mark == OK)


def test_without_a_reader_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told then comes from names and the kernel."""
    monkeypatch.setattr(reading.pyspy, "program", lambda: None)
    check = reading._stacks(1)
    assert (check.mark, check.remedy) == (LIMITED, "pip install glasspool[attach]")


def test_a_child_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule that forbids it is named, and who was refused; a want of processes is none."""
    denial = rights.Denial("yama", "kernel.yama.ptrace_scope is 1", "run as root")
    monkeypatch.setattr(reading, "tries", lambda pid: {"mem": None})
    monkeypatch.setattr(rights, "explain", lambda pid: denial)
    refused = "PermissionError: [Errno 1] Operation not permitted: '/proc/9/syscall'"
    monkeypatch.setattr(reading, "_as_neighbour", lambda pid: refused)
    check = reading._trial(9)
    assert (check.mark, check.facts["cause"]) == (LIMITED, "yama")
    assert "by another process of the same user: kernel.yama.ptrace_scope is 1" in check.found
    assert check.remedy == "Run as root."
    monkeypatch.setattr(reading, "_as_neighbour", lambda pid: "could not be tried: no processes")
    assert reading._trial(9).found == "could not be tried: no processes"


@pytest.mark.parametrize(("scope", "entitled", "cause"), [(1, 0, "yama"), (1, 1 << 19, "files")])
def test_yama_lets_an_ancestor_read_and_not_the_reader_that_it_starts(
    monkeypatch: pytest.MonkeyPatch, scope: int, entitled: int, cause: str
) -> None:
    """A child of ours is readable by us: that py-spy was refused has another reason."""
    mine = procfs.status(os.getpid())
    assert mine is not None
    mine = mine._replace(cap_effective=entitled, seccomp=0)
    monkeypatch.setattr(procfs, "status", lambda pid: mine)
    monkeypatch.setattr(rights, "yama_scope", lambda: scope)
    assert rights.explain(os.getpid()).cause == cause
