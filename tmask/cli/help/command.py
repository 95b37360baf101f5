"""Help in the plain form of man pages: a line for most options, their defaults, and examples.

Typer's own has a column for types and a frame, in which an option takes three lines; with it, help ran off the screen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand

from tmask.cli.help.examples import EXAMPLES

_OLD = {"--solvers"}  # spellings that are still read, and not shown
# By the name that typer gives a type; of others the name itself, in capitals.
_PLACES = {"float": "X", "int": "K", "path": "FILE", "str": "TEXT", "text": "TEXT", "integer": "K"}


class Command(TyperCommand):
    """A command whose help is its first paragraphs, one line for each option, and examples."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The arguments and options, those that must be given first."""
        parameters: list[Any] = self.get_params(ctx)
        given = [_record(one, ctx) for one in parameters if one.param_type_name == "argument"]
        options = [one for one in parameters if one.param_type_name == "option" and not one.hidden]
        options.sort(key=lambda one: not one.required)
        for heading, lines in (("Arguments", given), ("Options", [_record(one, ctx) for one in options])):
            if lines:
                with formatter.section(heading):
                    formatter.write_dl(lines, col_max=24, col_spacing=2)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples, as they would be typed."""
        formatter.write_paragraph()
        formatter.write("Examples:\n")
        for example in EXAMPLES[self.name or ""]:
            formatter.write(f"  {example}\n")


def _record(parameter: Any, ctx: Any) -> tuple[str, str]:
    """What is typed, and what it means with its default."""
    remarks = list(_remarks(parameter, ctx))
    meaning = f"{parameter.help or ''}{''.join(f' [{remark}]' for remark in remarks)}"
    if parameter.param_type_name == "argument":
        return parameter.name, meaning
    names = ", ".join(name for name in (*parameter.opts, *parameter.secondary_opts) if name not in _OLD)
    place = "" if parameter.is_flag else " " + (parameter.metavar or _place(parameter, ctx))
    return names + place, meaning


def _remarks(parameter: Any, ctx: Any) -> Iterator[str]:
    if parameter.required and parameter.param_type_name == "option":
        yield "needed"
    default = parameter.get_default(ctx, call=False)
    if parameter.name != "help" and default not in (None, "", False, (), []):
        texts = default if isinstance(default, list | tuple) else [default]
        yield ", ".join(parameter.opts[0] if text is True else str(text) for text in texts)


def _place(parameter: Any, ctx: Any) -> str:
    """What stands for a value: its kind alone, since the text says the rest."""
    # typer's newer versions have types of their own, "<list[str]>", older ones those of click, "integer range".
    kind = parameter.display_type(ctx) if hasattr(parameter, "display_type") else parameter.type.name
    name: str = re.findall(r"[a-z]+", kind.removeprefix("<list").lower())[0]
    return _PLACES.get(name, name.upper())
