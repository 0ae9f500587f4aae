"""What is loaded when: a program pays for what it uses, and each spawned worker pays again."""

from __future__ import annotations

import subprocess
import sys

LIMIT_S = 60.0

HEAVY = {
    *("dataclasses", "inspect", "json", "ctypes", "_ctypes", "resource", "runpy"),
    *("pathlib", "logging", "asyncio", "psutil", "rich", "cloudpickle"),
}


def modules_after(program: str) -> set[str]:
    """Return what a fresh interpreter has loaded after a program, beyond what it begins with."""
    program = f"import sys; before = set(sys.modules); {program}; print(*set(sys.modules) - before)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    return set(done.stdout.split())


def test_the_package_alone_loads_nothing_of_a_pool() -> None:
    """``import glasspool`` costs next to nothing: each name is loaded when it is asked for."""
    loaded = modules_after("import glasspool")
    assert not {"multiprocessing", "threading", "socket"} & loaded
    assert not HEAVY & loaded


def test_a_pool_loads_nothing_heavy_beyond_the_standard_librarys() -> None:
    """``from glasspool import Pool`` loads our own modules and few others."""
    beyond = modules_after("from glasspool import Pool") - modules_after(
        "import multiprocessing.pool"
    )
    assert not HEAVY & beyond


def test_a_spawned_worker_loads_no_pool() -> None:
    """It needs a part of the package only, and not the standard library's pool either."""
    program = (
        "import multiprocessing, glasspool; "
        "pool = glasspool.Pool(1, context=multiprocessing.get_context('spawn')); "
        "names = pool.apply(eval, (\"__import__('sys').modules.keys() | set()\",)); "
        "pool.close(); pool.join(); "
        "assert 'glasspool.engines.local.worker' in names; "
        "wrong = names & {'glasspool.pool', 'multiprocessing.pool', 'tempfile'}; "
        "assert not wrong, wrong"
    )
    modules_after(program)
