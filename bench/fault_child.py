"""One case of ``bench.faults`` in a fresh process; tells its outcome on a descriptor of its own."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import traceback
from typing import Any

from bench.fault_cases import CASES
from bench.fault_pools import POOLS, NoSuchCall
from bench.fault_scene import Failed, Hangs, Scene, brief


def main() -> None:
    """Run the case, and leave at once, unless the way in which it ends is what is looked at."""
    order = json.loads(sys.argv[1])
    case = CASES[order["case"]]
    library = POOLS[order["library"]]
    me = os.getpid()

    def tell(**words: Any) -> None:
        os.write(order["fd"], (json.dumps(words) + "\n").encode())

    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    library.prepare()
    tell(tell="ready")
    scene = Scene(library, order["folder"], lambda *steps: tell(ask=steps))
    verdict = {"sign": "ok"}
    try:
        verdict["seen"] = verdict["word"] = case.run(scene)
    except NoSuchCall as lacking:
        verdict = {"sign": "none", "word": "no such call", "seen": str(lacking)}
    except Hangs as hang:
        verdict = {"sign": "hangs", "word": "hangs", "seen": str(hang)}
    except Failed as failed:
        verdict = {"sign": "fails", "word": failed.word, "seen": failed.seen}
    except Exception as error:
        traceback.print_exc()
        verdict = {"sign": "fails", "word": "raises", "seen": brief(error)}
    if os.getpid() != me:
        return  # a child that a case has forked
    tell(verdict=verdict)
    if not case.ends or verdict["sign"] != "ok":
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
