"""``glasspool run``: a program behaves as under plain python, and is accounted for at its end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

LIMIT_S = 60

_ADDRESS = re.compile("0x[0-9a-f]+")

TABLE = {
    "nothing": "pass",
    "exit 0": "import sys; sys.exit(0)",
    "exit 3": "import sys; sys.exit(3)",
    "exit 300": "import sys; sys.exit(300)",
    "exit none": "import sys; sys.exit(None)",
    "exit with a text": "import sys; sys.exit('told on stderr')",
    "exit with a list": "raise SystemExit([1, 2])",
    "hard exit": "import os; os._exit(5)",
    "error": "def f():\n    1 / 0\nf()",
    "error with a cause": "try:\n    {}['x']\nexcept KeyError as e:\n    raise OSError from e",
    "syntax error": "x = (",
    "interrupt": "raise KeyboardInterrupt",
    "recursion": "def f(): f()\ntry:\n    f()\nexcept RecursionError:\n    print('deep')",
    "own excepthook": (
        "import sys, traceback\n"
        "def hook(kind, value, trace):\n"
        "    print(kind.__name__, [f.name for f in traceback.extract_tb(trace)])\n"
        "sys.excepthook = hook\n"
        "raise ValueError('mine')"
    ),
    "hook is back in exit functions": (
        "import atexit, sys\n"
        "hook = sys.excepthook\n"
        "atexit.register(lambda: print(sys.excepthook is hook, sys.last_traceback.tb_lineno))\n"
        "raise ValueError('mine')"
    ),
    "exit functions": (
        "import atexit, sys\natexit.register(print, 'first')\natexit.register(print, 'second')\n"
        "sys.exit(4)"
    ),
    "error in an exit function": "import atexit; atexit.register(lambda: 1 / 0)",
    "other thread": (
        "import threading, time\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    print('after main')\n"
        "threading.Thread(target=late).start()\n"
        "print('main ends')"
    ),
    "error in a thread": (
        "import threading\n"
        "t = threading.Thread(target=lambda: 1 / 0, name='t')\nt.start(); t.join()"
    ),
    "finalizer": "class C:\n    def __del__(self): print('gone')\nc = C()",
    "fork": (
        "import os, sys\n"
        "if os.fork() == 0:\n    sys.exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))"
    ),
    "standard error": "import sys; print('x', file=sys.stderr); sys.stderr.close()",
    "no output any more": "import sys; sys.stdout.close()",
    "warning": "import warnings; warnings.warn('old')",
    "names": (
        "import sys\n"
        "print(sorted(globals()))\n"
        "print(__name__, __file__, __package__, __spec__, type(__loader__), __builtins__)\n"
        "print(sys.argv, sys.path[0], sys.modules['__main__'].__dict__ is globals())\n"
        "def f(): 'text'\n"
        "print(f.__code__.co_filename, f.__module__)"
    ),
    "imports": "import beside; print(beside.__file__)",
    "current folder": "import os; os.chdir('/'); print(os.getcwd())",
}


def _environment() -> dict[str, str]:
    # What pytest or coverage have set must not reach the programs; colours would differ by chance.
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHON_COLORS": "0"}


def _run(
    folder: Path, *words: str, stdin: str | None = None, **environment: str
) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**_environment(), **environment},
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    # Addresses of objects differ from run to run.
    return done.returncode, _ADDRESS.sub("0x", done.stdout), _ADDRESS.sub("0x", done.stderr)


def _both(folder: Path, *words: str, stdin: str | None = None) -> tuple[object, object]:
    plain = _run(folder, *words, stdin=stdin)
    ours = _run(folder, "-m", "glasspool", "run", "--quiet", *words, stdin=stdin)
    return plain, ours


@pytest.fixture
def folder(tmp_path):
    """A folder with one module to import."""
    (tmp_path / "beside.py").write_text("")
    return tmp_path


@pytest.mark.parametrize("source", TABLE.values(), ids=TABLE.keys())
def test_a_script_does_what_it_does_under_python(folder, source):
    """Output, error output with tracebacks, and exit code are the same."""
    (folder / "script.py").write_text(source)
    plain, ours = _both(folder, "script.py", "--json", "-m", "x y")
    assert ours == plain


@pytest.mark.parametrize("source", TABLE.values(), ids=TABLE.keys())
def test_a_module_does_what_it_does_under_python(folder, source):
    """The same with ``-m``."""
    (folder / "module.py").write_text(source)
    plain, ours = _both(folder, "-m", "module", "--quiet", "-h")
    assert ours == plain


@pytest.mark.parametrize("name", ["names", "imports", "error", "exit 3"])
@pytest.mark.parametrize(
    "way", ["folder", "archive", "package", "stdin", "deep", "link", "bytecode"]
)
def test_other_ways_to_start(folder, name, way):
    """Folders, archives, packages, standard input, paths, links and bytecode start as usual."""
    source = TABLE[name]
    stdin = None
    place = folder / "place"
    place.mkdir()
    if way == "archive":
        with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
            archive.writestr("__main__.py", source)
            archive.writestr("beside.py", "")
        words = ["archive.zip"]
    elif way == "bytecode":
        import py_compile

        (folder / "source.py").write_text(source)
        py_compile.compile(str(folder / "source.py"), str(folder / "code.pyc"))
        words = ["code.pyc"]
    elif way == "stdin":
        words, stdin = ["-"], source
    elif way in ("folder", "package"):
        (place / "__main__.py").write_text(source)
        (place / "__init__.py").write_text("")
        (place / "beside.py").write_text("")
        words = ["place"] if way == "folder" else ["-m", "place"]
    elif way == "deep":
        (place / "script.py").write_text(source)
        (place / "beside.py").write_text("")
        words = [os.path.join(".", "place", "..", "place", "script.py")]
    else:
        (folder / "script.py").write_text(source)
        (place / "link.py").symlink_to("../script.py")
        words = ["place/link.py"]
    plain, ours = _both(folder, *words, "a", stdin=stdin)
    assert ours == plain


@pytest.mark.parametrize(
    "words", [("gone.py",), ("-m", "gone"), ("-m", "beside.py"), (".",), ("-m", "..up")]
)
def test_what_cannot_be_run_is_told_as_python_does(folder, words):
    """A missing script or module: the interpreter's own line and exit code."""
    plain, ours = _both(folder, *words)
    assert plain[0] != 0
    assert ours == plain


def test_safe_path_is_respected(folder):
    """With ``-P`` the script's folder is not searched for modules."""
    (folder / "script.py").write_text("import sys; print(sys.path)")
    plain = _run(folder, "-P", "script.py")
    ours = _run(folder, "-P", "-m", "glasspool", "run", "-q", "script.py")
    assert ours == plain


POOLS = """
import multiprocessing, os, sys
from multiprocessing import pool

class Kept:
    def __init__(self, value):
        self.value = value
    def __eq__(self, other):
        return type(other) is Kept and other.value == self.value

def square(x):
    return Kept(x * x)

def prepare(text):
    global prepared
    prepared = text

def tell(_):
    return prepared

if __name__ == "__main__":
    method = sys.argv[1]
    context = multiprocessing.get_context(method)
    with context.Pool(2, prepare, ("ready",)) as one:
        print(one.map(square, range(5)) == [Kept(x * x) for x in range(5)])
        print(one.map(tell, range(2)))
    with pool.Pool(1, context=context) as two:
        print(two.apply(square, (3,)).value)
    with multiprocessing.Pool(1) as three:
        print(list(three.imap(abs, [-1, -2])))
    sys.exit(9)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("way", ["script", "module"])
def test_pools_of_main_work_and_are_reported(folder, method, way):
    """Functions and classes of ``__main__`` travel both ways, whatever the start method."""
    (folder / "pools.py").write_text(POOLS)
    words = ["pools.py"] if way == "script" else ["-m", "pools"]
    plain = _run(folder, *words, method)
    told = folder / "told.json"
    ours = _run(folder, "-m", "glasspool", "run", "--json", str(told), *words, method)
    assert ours[:2] == plain[:2]
    assert plain[0] == 9
    report = json.loads(told.read_text())
    assert report["schema"] == 1
    assert report["exitcode"] == 9
    assert [p["size"] for p in report["pools"]] == [2, 1, 1]
    assert [p["start_method"] for p in report["pools"][:2]] == [method] * 2
    first = report["pools"][0]
    assert first["made_at"].rpartition("/")[2] == "pools.py:24"
    # A spawned worker may still have been starting when the other one had done all.
    known = [worker for worker in first["workers"] if worker["initialized_by"]]
    assert known
    assert sum(worker["tasks"] for worker in known) > 0
    for worker in known:
        assert worker["initialized_by"]["is_main"]
        assert [thread["is_main"] for thread in worker["executed_by"]] == [True]
    for words_of_report in ("made at pools.py:24", "Slowest tasks", "task-handler", "MainThread"):
        assert words_of_report in ours[2]


def test_the_default_size_is_the_standard_librarys(folder):
    """A program that counts on the size finds what it finds under python."""
    (folder / "s.py").write_text(
        "import multiprocessing\nwith multiprocessing.Pool() as p: print(p._processes)"
    )
    plain, ours = _both(folder, "s.py")
    assert ours == plain


def test_a_pool_left_open_is_in_the_report(folder):
    """A program that never closes its pool ends as usual, and is told of the pool."""
    (folder / "s.py").write_text(
        "import atexit, multiprocessing\n"
        "atexit.register(print, 'of the program', flush=True)\n"
        "p = multiprocessing.Pool(1)\n"
        "print(p.apply(abs, (-1,)), flush=True)\n"
        "raise RuntimeError('at the end')"
    )
    code, out, err = _run(folder, "-m", "glasspool", "run", "s.py")
    assert (code, out) == (1, "1\nof the program\n")
    assert err.index("RuntimeError: at the end") < err.index("glasspool run: s.py")
    assert "1 worker" in err
    assert "made at s.py:3" in err


def test_a_killed_worker_is_among_the_deaths(folder):
    """The report tells the death, the signal and the task."""
    (folder / "s.py").write_text(
        "import multiprocessing, os, signal\n"
        "def die(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "with multiprocessing.Pool(1) as p:\n"
        "    try: p.apply(die)\n"
        "    except Exception as e: print(type(e).__name__)\n"
        "    print(p.apply(abs, (-1,)))\n"
    )
    code, out, err = _run(folder, "-m", "glasspool", "run", "s.py")
    assert (code, out) == (0, "WorkerDied\n1\n")
    assert "Deaths" in err
    assert "SIGKILL" in err
    assert "die" in err


def test_no_pool_is_one_line(folder):
    """A program without a pool gets one line."""
    (folder / "s.py").write_text("print(1)")
    code, out, err = _run(folder, "-m", "glasspool", "run", "s.py")
    assert (code, out) == (0, "1\n")
    assert err.count("\n") == 1
    assert "made no pool" in err


def test_pools_left_alone_are_named(folder):
    """The report tells which pools stayed as they are, and where they were made."""
    (folder / "s.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "for _ in range(2):\n"
        "    with ThreadPoolExecutor(1) as p: print(p.submit(abs, -2).result())\n"
    )
    plain, ours = _both(folder, "s.py")
    assert ours == plain
    err = _run(folder, "-m", "glasspool", "run", "s.py")[2]
    assert "2 x ThreadPoolExecutor, made at s.py:3" in err


def test_pools_of_threads_and_executors_are_in_the_report(folder):
    """``ThreadPool`` and ``ProcessPoolExecutor`` are ours under run, with the same output."""
    (folder / "s.py").write_text(
        "from multiprocessing.pool import ThreadPool\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "if __name__ == '__main__':\n"
        "    with ThreadPool(2) as p: print(p.map(lambda x: x, [1, 2]))\n"
        "    with ProcessPoolExecutor(1) as p: print(p.submit(abs, -2).result())\n"
    )
    plain = _run(folder, "-W", "ignore", "s.py")
    ours = _run(folder, "-W", "ignore", "-m", "glasspool", "run", "--json", "r.json", "s.py")
    assert ours[:2] == plain[:2]
    threads, executor = json.loads((folder / "r.json").read_text())["pools"]
    assert (threads["kind"], threads["size"]) == ("glasspool.ThreadPool", 2)
    assert threads["made_at"].endswith("s.py:4")
    assert threads["stats"]["done"] == 2
    assert executor["kind"] == "glasspool.Executor"
    assert executor["made_at"].endswith("s.py:5")
    assert "glasspool-1 task-" in ours[2]


_STARTS_CHILDREN = """
import multiprocessing, os, subprocess, sys

def work(method):
    with multiprocessing.Pool(1) as pool:
        print(method, pool.map(abs, [-1]), flush=True)

if __name__ == "__main__":
    code = (
        "from concurrent.futures import ProcessPoolExecutor as E\\n"
        "with E(1) as e: print(e.submit(abs, -2).result())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', %r], check=True)" % code
    subprocess.run([sys.executable, "-c", nested], check=True)
    for method in ("fork", "spawn", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=work, args=(method,))
        process.start()
        process.join()
    names = "import sys; print(sorted(m for m in sys.modules if 'glasspool' in m or 'threading' == m))"
    subprocess.run([sys.executable, "-c", names], check=True)
"""


@pytest.mark.one_python
def test_children(folder):
    """With ``--children`` the pools of child processes are ours, too, and in the account with their pids.

    A child that makes no pool loads nothing of ours, and the private folder is gone at the end.
    """
    (folder / "s.py").write_text(_STARTS_CHILDREN)
    temporary = folder / "tmp"
    temporary.mkdir()
    plain = _run(folder, "-W", "ignore", "s.py")
    words = ("-m", "glasspool", "run", "--children", "--json", "r.json", "s.py")
    ours = _run(folder, "-W", "ignore", *words, TMPDIR=str(temporary))
    assert ours[:2] == plain[:2]
    pools = json.loads((folder / "r.json").read_text())["pools"]
    kinds = ["glasspool.Executor"] * 2 + ["glasspool.Pool"] * 3
    assert [pool["kind"] for pool in pools] == kinds
    assert all(pool["in_child"] and pool["stats"]["done"] == 1 for pool in pools)
    assert len({pool["pid"] for pool in pools}) == 5
    assert all(str(pool["pid"]) in ours[2] for pool in pools)
    assert not list(temporary.glob("glasspool-run-*"))


@pytest.mark.one_python
def test_children_keep_their_own_sitecustomize(folder):
    """The user's ``sitecustomize`` runs in children as before; GLASSPOOL=0 switches all of it off."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text("import sys\nsys.mine = __file__\n")
    (folder / "s.py").write_text(
        "import subprocess, sys\n"
        "code = 'import sys; print(sys.mine, sys.modules[\"sitecustomize\"].__file__ == sys.mine,'\\\n"
        "    ' any(\"glasspool-run\" in entry for entry in sys.path))'\n"
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
        "code = 'from multiprocessing.pool import Pool; print(Pool.__module__)'\n"
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
    words = ("-m", "glasspool", "run", "--quiet", "--children", "s.py")
    code, out, err = _run(folder, *words, PYTHONPATH=path)
    mine = f"{folder / 'site' / 'sitecustomize.py'} True False"
    assert (code, out.split("\n"), err) == (0, [mine, "glasspool.replacement", ""], "")
    code, out, err = _run(folder, *words, PYTHONPATH=path, GLASSPOOL="0")
    assert (code, out.split("\n"), err) == (0, [mine, "multiprocessing.pool", ""], "")


def test_the_switch_in_the_environment(folder, monkeypatch):
    """With GLASSPOOL=0 the program runs on the standard library's pool, and that is said."""
    monkeypatch.setenv("GLASSPOOL", "0")
    (folder / "s.py").write_text(
        "import multiprocessing\nwith multiprocessing.Pool(1) as p: print(type(p).__module__)"
    )
    code, out, err = _run(folder, "-m", "glasspool", "run", "s.py")
    assert (code, out) == (0, "multiprocessing.pool\n")
    assert "GLASSPOOL=0" in err


def test_quiet_writes_the_file_and_prints_nothing(folder):
    """``--quiet`` and ``--json`` go together."""
    (folder / "s.py").write_text("import os; os.chdir('/')")
    words = ["-m", "glasspool", "run", "--json=r.json", "-q", "s.py"]
    assert _run(folder, *words) == (0, "", "")
    assert json.loads((folder / "r.json").read_text())["pools"] == []


@pytest.mark.parametrize(
    "words", [[], ["--json"], ["--no-such", "s.py"], ["-m"], ["--json", "none/r.json", "s.py"]]
)
def test_bad_usage(folder, words):
    """Bad usage is told in a few lines with exit code 2, and the program does not run."""
    (folder / "s.py").write_text("print('ran')")
    code, out, err = _run(folder, "-m", "glasspool", "run", *words)
    assert (code, out) == (2, "")
    assert 0 < err.count("\n") <= 3
    assert "Traceback" not in err
