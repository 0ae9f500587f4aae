"""The doctor in situations that are made for real: other users, fewer rights, limits, namespaces."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import glasspool

LIMIT_S = 60
SCENES = Path(__file__).parent.parent / "scenes"
UID = 54329
"""A user who has no process but ours."""

# It may read everything, as the interpreter may lie in root's home.
_CAPS = "-all,+dac_read_search"
AS_USER = (
    *("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups"),
    *("--inh-caps", _CAPS, "--ambient-caps", _CAPS),
)
WITHOUT_PTRACE = ("setpriv", "--bounding-set", "-sys_ptrace")

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(sys.platform != "linux", reason="what Linux allows"),
]
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs to give up rights",
)


def doctor(
    *words: str, before: tuple[str, ...] = (), code: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command, after others that change its rights, and check its exit code."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "glasspool", "doctor", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | variables,
        check=False,
    )
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == "" or code == 3, done.stderr
    return done


def checks(*words: str, before: tuple[str, ...] = (), code: int = 0) -> dict[str, Any]:
    """Run the command for JSON; return its checks by key."""
    told = json.loads(doctor("--json", *words, before=before, code=code).stdout)
    assert told["works"] is (code == 0)
    return {check["key"]: check for check in told["checks"]}


LOOK = """
import json, sys
from glasspool.observe.machine import target
from glasspool.snapshot import as_plain
print(json.dumps([as_plain(check) for check in target.checks(int(sys.argv[1]))]))
"""


def look(pid: int, before: tuple[str, ...] = ()) -> dict[str, Any]:
    """Have only a process looked at, by a program with fewer rights."""
    done = subprocess.run(
        [*before, sys.executable, "-c", LOOK, str(pid)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {check["key"]: check for check in json.loads(done.stdout)}


@contextmanager
def bystander(*arguments: str, before: tuple[str, ...] = ()) -> Iterator[int]:
    """Run a program that waits."""
    program = subprocess.Popen(
        [*before, sys.executable, str(SCENES / "bystander.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        word, pid = program.stdout.readline().split()
        assert word == "ready"
        yield int(pid)
    finally:
        program.communicate(timeout=30)


def marks(found: dict[str, Any]) -> dict[str, str]:
    """Return the marks by key."""
    return {key: check["mark"] for key, check in found.items()}


def test_the_table_has_all_topics_and_leaves_nothing(tmp_path: Path) -> None:
    """Off a terminal there are no escape codes; the folder of scoreboards is not made by it."""
    home = tmp_path / "gp"
    text = doctor(GLASSPOOL_DIR=str(home), COLUMNS="80").stdout
    assert "\033" not in text
    for topic in ("Python and packages", "Reading processes", "Container and limits", "Pools"):
        assert f"\n{topic}\n" in f"\n{text}"
    assert "All that a pool needs works" in text.splitlines()[-1]
    assert all(len(line) <= 80 or " " not in line[26:] for line in text.splitlines())
    assert not home.exists()


def test_on_a_terminal_marks_have_colours_unless_the_user_objects() -> None:
    """NO_COLOR is obeyed."""
    assert "\033[32mok" in _on_terminal(PATH=os.environ["PATH"])
    assert "\033" not in _on_terminal(NO_COLOR="1")


def _on_terminal(**variables: str) -> str:
    code = (
        "from glasspool.cli import doctor\nfrom glasspool.observe.machine import interpreter\n"
        "doctor._print_table(list(interpreter.checks()))"
    )
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    try:
        subprocess.run(
            [sys.executable, "-c", code],
            stdout=theirs,
            env=environment | variables,
            timeout=LIMIT_S,
            check=True,
        )
        return os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_json_has_the_same_for_programs() -> None:
    """Each check has its fields; what is limited says what follows and what to do."""
    with bystander() as pid:
        told = json.loads(doctor("--json", str(pid)).stdout)
    assert (told["schema"], told["works"], told["pid"]) == (1, True, pid)
    keys = [check["key"] for check in told["checks"]]
    assert len(keys) == len(set(keys))
    assert {"python", "py-spy", "ptrace", "processors", "memory", "folder"} <= set(keys)
    assert {"start-method.fork", "target", "target.stacks", "target.mem"} <= set(keys)
    for check in told["checks"]:
        assert set(check) == {
            *("key", "topic", "mark", "found", "means", "remedy", "needed", "facts")
        }
        assert check["mark"] in ("ok", "limited", "no")
        assert check["found"]
        assert check["mark"] == "ok" or check["means"] or check["remedy"], check


def test_a_process_of_ones_own_can_be_read() -> None:
    """Everything is told of it, and no reason for anything else."""
    with bystander() as pid:
        found = look(pid)
    assert set(marks(found).values()) == {"ok"}
    assert "target.why" not in found
    assert found["target.python"]["facts"]["version"] == f"3.{sys.version_info.minor}"


def test_a_program_with_a_pool_of_ours_answers_itself() -> None:
    """Where the pool answers, no rights are needed."""
    with glasspool.Pool(1, name="asked"):
        found = look(os.getpid())
    assert found["target.pools"]["mark"] == "ok"
    assert "asked: answered in" in found["target.pools"]["found"]


def test_what_is_no_python_is_said_to_be_none() -> None:
    """The pool's needs are met all the same."""
    with subprocess.Popen(["sleep", "60"]) as program:
        try:
            found = look(program.pid)
        finally:
            program.kill()
    assert found["target.python"]["mark"] == "no"
    assert not found["target.python"]["needed"]
    assert found["target.mem"]["mark"] == "ok"
    assert found["target.stacks"]["mark"] == "limited"
    assert "target.why" not in found


def test_no_such_process() -> None:
    """One line, and an exit code of its own."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as program:
        program.wait(LIMIT_S)
    done = doctor(str(program.pid), code=3)
    assert done.stdout == ""
    assert done.stderr == f"glasspool: no such process: {program.pid}\n"


@needs_root
def test_an_ordinary_user_and_a_process_of_another_one() -> None:
    """Pools work, own programs can be read; of root's the rule that forbids it is told."""
    with bystander() as pid:
        found = checks(str(pid), before=AS_USER)
    mark = marks(found)
    assert mark["ptrace"] == mark["py-spy"] == mark["start-method.fork"] == "ok"
    assert found["user"]["facts"]["uid"] == UID
    assert not found["capabilities"]["facts"]["cap_sys_ptrace"]
    assert mark["target.maps"] == mark["target.mem"] == mark["target.syscall"] == "limited"
    assert mark["target.stacks"] == "limited"
    assert mark["target"] == mark["target.stat"] == "ok"
    assert found["target.why"]["facts"]["cause"] == "user"
    assert "as that user" in found["target.why"]["remedy"]


@needs_root
def test_root_without_the_right_to_trace() -> None:
    """What has more rights is not readable, what has the same is: the usual case of a container."""
    with bystander() as pid:
        found = look(pid, before=WITHOUT_PTRACE)
    assert marks(found)["target.maps"] == "ok"
    assert marks(found)["target.mem"] == marks(found)["target.stacks"] == "limited"
    assert found["target.why"]["facts"]["cause"] == "capabilities"
    with bystander(before=WITHOUT_PTRACE) as pid:
        found = look(pid, before=WITHOUT_PTRACE)
    assert set(marks(found).values()) == {"ok"}


@needs_root
@pytest.mark.parametrize(
    ("deed", "before"),
    [(("undumpable",), AS_USER), (("undumpable",), WITHOUT_PTRACE), (("user", str(UID)), ())],
)
def test_a_process_that_made_itself_unreadable(
    deed: tuple[str, ...], before: tuple[str, ...]
) -> None:
    """The same user may not read it, and that is what is said; root with the right to trace may.

    A server that starts as root and changes its user itself is such a process.
    """
    with bystander(*deed, before=before) as pid:
        before = before or AS_USER
        found = look(pid, before=before)
        by_root = look(pid)
    assert marks(found)["target.exe"] == marks(found)["target.mem"] == "limited"
    assert found["target.why"]["facts"]["cause"] == "protected"
    assert "target.why" not in by_root


LIMITED = """
import os, resource, sys
soft = int(sys.argv[2])
resource.setrlimit(getattr(resource, sys.argv[1]), (soft, soft))
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


def limited(what: str, soft: int) -> tuple[str, ...]:
    """Return the words of a command that runs Python under a limit."""
    return (sys.executable, "-c", LIMITED, f"RLIMIT_{what}", str(soft))


def under(command: tuple[str, ...], *, code: int) -> dict[str, Any]:
    """Run the doctor under a limit."""
    done = subprocess.run(
        [*command, "-m", "glasspool", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return {check["key"]: check for check in json.loads(done.stdout)["checks"]}


def part(name: str, command: tuple[str, ...]) -> dict[str, Any]:
    """Have only one group of checks done, under a limit."""
    code = (
        f"import json\nfrom glasspool.observe.machine import {name}\n"
        "from glasspool.snapshot import as_plain\n"
        f"print(json.dumps([as_plain(check) for check in {name}.checks()]))"
    )
    done = subprocess.run(
        [*command, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return {check["key"]: check for check in json.loads(done.stdout)}


def test_few_descriptors_are_told_with_what_they_are_enough_for() -> None:
    """A pool of some workers works, and a large one would not."""
    found = part("limits", limited("NOFILE", 64))
    assert found["descriptors"]["mark"] == "limited"
    assert "about 12 workers" in found["descriptors"]["means"]
    assert "--ulimit nofile" in found["descriptors"]["remedy"]


def test_where_no_pool_can_be_made_the_exit_code_says_so() -> None:
    """With 12 descriptors nothing works, and each line says why."""
    found = under(limited("NOFILE", 12), code=1)
    method = found["start-method.fork"]
    assert (method["mark"], method["needed"]) == ("no", True)
    assert "Too many open files" in method["found"]
    assert found["descriptors"]["means"] == "Too few for most pools."


@needs_root
def test_no_more_processes_may_be_started() -> None:
    """Neither a trial nor a pool is possible, and that is told in place of a traceback."""
    found = under((*AS_USER, *limited("NPROC", 1)), code=1)
    assert found["processes"]["mark"] == "limited"
    assert found["ptrace"]["found"] == "no process could be started"
    assert found["start-method.fork"]["mark"] == "no"


def _may(*command: str) -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", *command], capture_output=True, check=False)
    return tried.returncode == 0


def in_mounts(*commands: str) -> tuple[str, ...]:
    """Return the words of a command that runs another one with mounts of its own, as a container."""
    script = "\n".join(["set -e", *commands, 'exec "$@"'])
    return ("unshare", "-p", "-f", "-m", "sh", "-c", script, "sh")


needs_mounts = pytest.mark.skipif(
    not _may("-p", "-f", "-m", "mount", "-t", "tmpfs", "none", "/mnt"),
    reason="needs namespaces of its own",
)


@needs_root
@needs_mounts
def test_a_container_with_little_shared_memory_and_processes_of_its_own(tmp_path: Path) -> None:
    """64 MB of /dev/shm are enough for our pools; pid 1 has duties; there is nobody else to see."""
    found = checks(
        before=in_mounts("mount -t proc none /proc", "mount -t tmpfs -o size=64m none /dev/shm")
    )
    assert found["shared-memory"]["mark"] == "limited"
    assert "--shm-size" in found["shared-memory"]["remedy"]
    assert found["pid-namespace"]["facts"]["own"]
    assert found["pid-namespace"]["mark"] == "limited"  # it is pid 1 there
    assert found["proc"]["facts"]["processes"] == 1
    assert marks(found)["py-spy"] == marks(found)["ptrace"] == "ok"
    assert marks(found)["memory-files"] == marks(found)["start-method.spawn"] == "ok"


@needs_root
@needs_mounts
def test_nothing_is_writable_and_others_are_hidden() -> None:
    """Pools work under fork, unseen; the remedy is GLASSPOOL_DIR. With hidepid others are not seen."""
    read_only = [f"mount -t tmpfs -o ro none {place}" for place in ("/dev/shm", "/var/tmp", "/run")]
    before = (
        *in_mounts(
            "mount -t proc -o hidepid=2 none /proc",
            *read_only,
            "cd /proc",
            "export GLASSPOOL_DIR=/dev/shm/none TMPDIR=/dev/shm",
            "mount --bind -o ro /tmp /tmp",
            "mount -o remount,bind,ro /tmp",
        ),
        *AS_USER,
    )
    found = checks(before=before)
    assert found["folder"]["mark"] == "limited"
    assert "Read-only file system" in found["folder"]["found"]
    assert "GLASSPOOL_DIR" in found["folder"]["remedy"]
    assert found["semaphores"]["mark"] == "limited"
    assert found["shared-memory"]["mark"] == "limited"
    assert found["start-method.fork"]["mark"] == "ok"
    assert found["proc"]["mark"] == "limited"


OURS = """
import glasspool, os, signal, sys
signal.alarm(60)
with glasspool.Pool(1, name="inside") as pool:
    pool.apply(abs, (-1,))
    print("ready", os.getpid(), flush=True)
    sys.stdin.read()
"""


@needs_root
@needs_mounts
def test_a_pool_in_another_container_is_found_with_its_folder() -> None:
    """As from a debug container that shares the processes, but not the files, of a pod."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("GLASSPOOL_DIR", "XDG_RUNTIME_DIR")
    }
    own_files = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh")
    program = subprocess.Popen(
        [*own_files, sys.executable, "-c", OURS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert program.stdout is not None
        pid = int(program.stdout.readline().split()[1])
        command = [sys.executable, "-c", LOOK, str(pid)]
        told = json.loads(subprocess.check_output(command, env=environment, timeout=LIMIT_S))
        [found] = [check for check in told if check["key"] == "target.pools"]
        home = found["facts"]["elsewhere"]
        listed = subprocess.check_output(
            [sys.executable, "-m", "glasspool", "ps", "--json"],
            env=environment | {"GLASSPOOL_DIR": home},
            timeout=LIMIT_S,
        )
    finally:
        program.communicate(timeout=30)
    assert home == f"/proc/{pid}/root/dev/shm/glasspool-0"
    assert found["remedy"] == f"GLASSPOOL_DIR={home} glasspool ps {pid}"
    pools = json.loads(listed)["pools"]
    assert [pool["name"] for pool in pools if pool["pid"] == pid] == ["inside"]


# A program that runs another one under a filter that refuses the calls with which debuggers read.
SECCOMP = """
import ctypes, errno, os, struct, sys
load, equal, answer = 0x20, 0x15, 0x06
steps = [
    (load, 0, 0, 0),  # the number of the call, of x86-64
    (equal, 1, 0, 101),  # ptrace
    (equal, 0, 1, 310),  # process_vm_readv
    (answer, 0, 0, 0x00050000 | errno.EPERM),
    (answer, 0, 0, 0x7FFF0000),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None)
libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
assert not libc.prctl(38, 1, 0, 0, 0)
assert not libc.prctl(22, 2, ctypes.addressof(program), 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter knows x86-64")
def test_a_seccomp_filter_that_forbids_ptrace_is_no_obstacle() -> None:
    """Stacks are read from a file of the kernel's then, without the calls that are forbidden."""
    with bystander() as pid:
        found = look(pid, before=(sys.executable, "-c", SECCOMP))
    assert set(marks(found).values()) == {"ok"}


@needs_root
@pytest.mark.skipif(not _may("-U", "-r", "true"), reason="needs a user namespace")
def test_root_of_a_user_namespace_is_no_root() -> None:
    """It is told, and what it may read is tried: a program of the machine's root is not among it."""
    with bystander() as pid:
        found = look(pid, before=("unshare", "-U", "-r"))
    assert found["target.mem"]["mark"] == "limited"
    assert found["target.why"]["facts"]["cause"] == "namespace"


def _cgroup() -> Path | None:
    """Return a folder in which groups with a limit of processes can be made; None if not permitted."""
    for folder in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        if os.path.exists(f"{folder}/cgroup.procs") and os.access(folder, os.W_OK):
            return Path(folder)
    return None


@needs_root
def test_the_limit_of_processes_of_a_cgroup_is_found(tmp_path: Path) -> None:
    """It binds also where ulimit -u does not, and what is used of it is told."""
    above = _cgroup()
    group = above / f"glasspool-doctor-{os.getpid()}" if above else tmp_path / "none"
    try:
        group.mkdir(parents=False)
        (group / "pids.max").write_text("20")
    except OSError:
        if group.exists():
            group.rmdir()
        pytest.skip("no cgroup can be made here")
    try:
        before = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
        found = part("container", (*before, sys.executable))
    finally:
        _remove(group)
    assert found["pids"]["facts"]["limit"] == 20
    assert found["pids"]["facts"]["used"] >= 1
    assert found["pids"]["facts"]["file"] == f"{group}/pids.max"


def _remove(group: Path) -> None:
    # Its last process may have ended just now, and its parent, which is not ours, has to take it.
    subprocess.run(
        ["timeout", "20", "sh", "-c", f"until rmdir {group} 2>/dev/null; do sleep 0.05; done"],
        check=True,
    )
