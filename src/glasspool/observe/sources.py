"""Which names a line of a library's function calls, found in the library's own source file.

A frame tells a file and a line; which step of a loop that is differs between versions. Only the block
of the one function is parsed, and kept for the life of this process.
"""

from __future__ import annotations

import ast
import functools
import re
import textwrap
from collections.abc import Iterator, Mapping

_Lines = Mapping[int, tuple[str, ...]]


def names_at(file: str, function: str, line: int) -> tuple[str, ...]:
    """Name what a line calls, loops over or enters, the outermost first.

    Nothing where the file cannot be read, or does not have that function at that line.

    Args:
        file: The path of the source file.
        function: The function's last name, such as ``get`` of ``SimpleQueue.get``.
        line: A line within it, counted from 1.
    """
    first = _first_line(file, function, line)
    return () if first is None else _block(file, first).get(line, ())


def is_readable(file: str) -> bool:
    """Tell whether there is such a source file."""
    return bool(_text(file))


@functools.lru_cache(maxsize=64)
def _text(file: str) -> tuple[str, ...]:
    try:
        with open(file, encoding="utf-8", errors="replace") as source:
            return tuple(source)
    except (OSError, ValueError):
        return ()  # in an archive, in another container, or made up: <string>


@functools.lru_cache(maxsize=1024)
def _first_line(file: str, function: str, line: int) -> int | None:
    """Find the line of the ``def`` that a line belongs to."""
    text = _text(file)
    if not 0 < line <= len(text):
        return None
    head = re.compile(rf"\s*(async\s+)?def\s+{re.escape(function)}\b")
    return next((at for at in range(line, 0, -1) if head.match(text[at - 1])), None)


@functools.lru_cache(maxsize=256)
def _block(file: str, first: int) -> _Lines:
    text = _text(file)
    last = _last_line(text, first)
    block = textwrap.dedent("".join(text[first - 1 : last]))
    try:
        tree = ast.parse(block)
    except (SyntaxError, ValueError):
        return {}  # the source of a newer Python than ours
    found: dict[int, list[str]] = {}
    # What encloses comes before what it holds.
    for _, begin, end, name in sorted(_spans(tree), key=lambda span: -span[0]):
        for line in range(begin, end + 1):
            found.setdefault(line + first - 1, []).append(name)
    return {line: tuple(names) for line, names in found.items()}


def _last_line(text: tuple[str, ...], first: int) -> int:
    indent = _indent(text[first - 1])
    for at in range(first, len(text)):
        line = text[at]
        if line.strip() and _indent(line) <= indent and not line.lstrip().startswith((")", "#")):
            return at
    return len(text)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _spans(tree: ast.AST) -> Iterator[tuple[int, int, int, str]]:
    """Give the extent in columns, first and last line and name of each call, loop and ``with``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _span(node, node.func)
        elif isinstance(node, ast.For):
            yield from _span(node.iter, node.iter)
        elif isinstance(node, ast.With):
            for item in node.items:
                yield from _span(item.context_expr, item.context_expr)


def _span(node: ast.expr, named: ast.expr) -> Iterator[tuple[int, int, int, str]]:
    name = named.attr if isinstance(named, ast.Attribute) else getattr(named, "id", None)
    if name is not None:
        end = node.end_lineno or node.lineno
        columns = (end - node.lineno) * 1000 + (node.end_col_offset or 0) - node.col_offset
        yield columns, node.lineno, end, name
