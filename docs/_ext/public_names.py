"""What the reference is made of: the public names of the package, and the commands' own help texts.

Owns the directives ``command-help``, ``exit-codes`` and ``further-names``, and the check that
every public name stands in the reference.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import glasspool
from glasspool.cli import COMMANDS, codes

log = logging.getLogger(__name__)


class CommandHelp(SphinxDirective):
    """Show what ``glasspool COMMAND --help`` prints."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the help as a literal block."""
        parser = importlib.import_module(COMMANDS[self.arguments[0]][0]).make_parser()
        text = parser.format_help()
        return [nodes.literal_block(text, text, language="text")]


class FurtherNames(SphinxDirective):
    """Document every public name that no page of the reference names."""

    def run(self) -> list[nodes.Node]:
        """Return their entries."""
        folder = self.env.srcdir / "reference"
        pages = "".join(page.read_text(encoding="utf-8") for page in folder.glob("*.md"))
        told = set(re.findall(r":: glasspool\.(\w+)", pages))
        lines = []
        for name in sorted(set(glasspool.__all__) - told - {"__version__"}):
            kind = "class" if isinstance(getattr(glasspool, name), type) else "function"
            lines += [f".. auto{kind}:: glasspool.{name}", "   :members:"][: 1 + (kind == "class")]
            lines.append("")
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *lines, "```"]))


class ExitCodes(SphinxDirective):
    """Show the exit codes of ``ps``, ``stack`` and ``why`` as a table."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = [("0", "", "success; of `why`: nothing is wrong"), ("2", "", "bad usage")]
        for table in (codes.PROBLEMS, codes.VERDICTS):
            rows += [(str(code), f"`{name}`", text) for name, (code, text) in table.items()]
        lines = ["| code | name | meaning |", "|---:|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        return self.parse_text_to_nodes("\n".join(lines))


def without_overloads(app: Sphinx) -> None:
    """Have the calls of a pool shown once each, with all their keywords, and not once for each overload."""
    analyzer = ModuleAnalyzer.for_module("glasspool.pool")
    analyzer.analyze()
    analyzer.overloads.clear()


def check_that_all_are_there(app: Sphinx, exception: Exception | None) -> None:
    """Warn of each public name and each command of which the reference says nothing."""
    if exception is not None or app.builder.name != "html":
        return
    told = {name for name, *_ in app.env.domains["py"].get_objects()}
    for name in sorted(set(glasspool.__all__) - {"__version__"}):
        if f"glasspool.{name}" not in told:
            log.warning("glasspool.%s is public, but not in docs/reference", name)
    commands = (app.srcdir / "reference" / "commands.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        if f"{{command-help}} {name}\n" not in commands:
            log.warning("glasspool %s is not in docs/reference/commands.md", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives and the check."""
    app.add_directive("command-help", CommandHelp)
    app.add_directive("exit-codes", ExitCodes)
    app.add_directive("further-names", FurtherNames)
    app.connect("builder-inited", without_overloads)
    app.connect("build-finished", check_that_all_are_there)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
