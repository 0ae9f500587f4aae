"""A backend for joblib, and with it for scikit-learn (extra ``joblib``)."""

from __future__ import annotations

from glasspool import extras

NAME = "glasspool"


def register_joblib(*, make_default: bool = False) -> None:
    """Make ``joblib.parallel_config(backend="glasspool")`` run its tasks on a pool of glasspool.

    May be called again. Further arguments of ``parallel_config`` are the pool's: ``parallel_config(
    backend="glasspool", n_jobs=4, timeout=60, name="search")``. See ``docs/joblib.md``.

    Args:
        make_default: Whether calls that name no backend use it, too.

    Raises:
        MissingExtra: joblib is not installed; the message has the command that installs it.
    """
    joblib = extras.load("joblib", "joblib")
    from glasspool.joblib_backend import GlasspoolBackend

    joblib.register_parallel_backend(NAME, GlasspoolBackend, make_default=make_default)
