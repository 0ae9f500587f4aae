"""One measurement in a fresh process: ``python -m bench.child '{"case": ..., ...}'``.

Its numbers, or why there are none, go into a file: a library may print what it likes.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.cases import CASES, Case
from bench.contenders import BARE, CONTENDERS, NoCounterpart
from bench.measures import FULL, QUICK, Setting

LEAVE_S = 5.0
"""So long a pool may take to end when its numbers are told; whoever watches kills the rest."""


def main() -> None:
    """Measure one case on one contender, and leave without waiting for anything."""
    order = json.loads(sys.argv[1])
    case = CASES[order["case"]]
    setting = Setting(
        CONTENDERS[order["contender"]],
        case.count_workers(order["workers"]),
        QUICK if order["quick"] else FULL,
    )
    told = _measured(case, setting)
    unfinished = Path(order["file"] + ".new")
    unfinished.write_text(json.dumps(told))
    unfinished.rename(order["file"])
    _leave(setting)


def _measured(case: Case, setting: Setting) -> dict[str, Any]:
    try:
        numbers = _way(case, setting)(setting)
    except NoCounterpart as lacking:
        return {"missing": "–", "reason": str(lacking)}
    except Exception as error:
        traceback.print_exc()
        text = str(error).partition("\n")[0][:120]
        return {"missing": "fails", "reason": f"{type(error).__name__}: {text}"}
    return {"numbers": numbers, "scaled": setting.scaled}


def _way(case: Case, setting: Setting) -> Callable[[Setting], dict[str, float]]:
    name = setting.contender.name
    if name == BARE:
        if case.bare is None:
            raise NoCounterpart("")
        return case.bare
    if case.only is not None and name not in case.only:
        raise NoCounterpart("")
    return case.run


def _leave(setting: Setting) -> None:
    """End the pools in the short way, as far as they let us."""
    out_of_time = threading.Timer(LEAVE_S, os._exit, (0,))
    out_of_time.daemon = True
    out_of_time.start()
    for pool in setting.pools:
        try:
            pool.stop()
        except Exception:
            traceback.print_exc()
    os._exit(0)


if __name__ == "__main__":
    main()
