"""joblib at work on two jobs; the backend is the first argument: loky, multiprocessing or threading."""

import staging
from joblib import Parallel, delayed


def main() -> None:
    backend = staging.begin()
    staging.tell("ready")
    Parallel(n_jobs=2, backend=backend)(delayed(staging.work)(item) for item in range(4))


if __name__ == "__main__":
    main()
