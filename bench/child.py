"""One measurement in a fresh process: ``python -m bench.child '{"case": ..., ...}'``; prints JSON."""

from __future__ import annotations

import json
import sys
from time import perf_counter

from bench import cases
from bench.contenders import CONTENDERS


def main() -> None:
    """Measure one case on one contender."""
    order = json.loads(sys.argv[1])
    contender = CONTENDERS[order["contender"]]
    sizes = cases.QUICK if order["quick"] else cases.FULL
    case = cases.CASES[order["case"]]
    begun = perf_counter()
    contender.load()
    loaded = perf_counter() - begun
    seconds = case.run(lambda method: contender.make(order["workers"], method), sizes)
    print(json.dumps({**seconds, "import": loaded}))


if __name__ == "__main__":
    main()
