"""Optional dependencies: loaded when they are needed, and named with their install line when missing."""

from __future__ import annotations

import importlib
from typing import Any

from glasspool.errors import GlasspoolError


class MissingExtra(GlasspoolError, ImportError):
    """A part of glasspool needs a package that is not installed; the message has the command."""


def load(module: str, extra: str) -> Any:
    """Import a module of an optional dependency and return it.

    Args:
        module: Its full name.
        extra: The extra of glasspool that brings it, such as ``web``.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        if missing == "glasspool":
            raise
        raise MissingExtra(
            f"this needs {missing}, which is not installed: pip install 'glasspool[{extra}]'"
        ) from error
