"""What a result says of itself, once: as text on a terminal, and as HTML in a notebook."""

from __future__ import annotations

import html
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

CardRow = Mapping[str, str]

# Of a table that stays on the page; a longer one, such as a language model's, scrolls in its own box.
_TALL = 12
_CELL = "text-align:left;padding:2px 10px 2px 0;white-space:nowrap"


@dataclass(frozen=True, slots=True)
class Card:
    """A title, a few facts, a table, and pictures.

    Args:
        title: one line.
        facts: what is known of the whole, in words.
        rows: a table, one word for each column; all rows have the columns of the first.
        pictures: SVG or other HTML, as it is.
        notes: sentences below.
    """

    title: str
    facts: Mapping[str, str]
    rows: Sequence[CardRow] = ()
    pictures: Sequence[str] = ()
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Lines for a terminal, without the pictures."""
        lines = [self.title, *(f"{name}: {fact}" for name, fact in self.facts.items())]
        return "\n".join([*lines, *table_lines(self.rows), *self.notes])

    def html(self) -> str:
        """For a notebook. It sets no colour of its own, so that it can be read on a light page and on a dark one."""
        parts = [f"<div><strong>{html.escape(self.title)}</strong></div>"]
        if self.facts:
            parts.append(_html_table([self.facts]))
        if self.pictures:
            parts.append('<div style="display:flex;gap:16px;margin:6px 0">' + "".join(self.pictures) + "</div>")
        if self.rows:
            box = "max-height:24em;overflow:auto" if len(self.rows) > _TALL else "overflow-x:auto"
            parts.append(f'<div style="{box}">{_html_table(self.rows)}</div>')
        parts += [f"<div><small>{html.escape(note)}</small></div>" for note in self.notes]
        return '<div class="tmask" style="margin:6px 0">' + "".join(parts) + "</div>"


class Shown:
    """A result that shows itself by its card."""

    __slots__ = ()

    @abstractmethod
    def card(self) -> Card:
        """What it says of itself."""

    def _repr_html_(self) -> str:
        return self.card().html()


def table_lines(rows: Sequence[CardRow]) -> Iterator[str]:
    """Rows in columns of equal width, under their names."""
    if not rows:
        return
    cells = [tuple(rows[0]), *(tuple(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _html_table(rows: Sequence[CardRow]) -> str:
    head = "".join(f'<th style="{_CELL}">{html.escape(name)}</th>' for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{html.escape(cell)}</td>' for cell in row.values()) + "</tr>"
        for row in rows
    )
    return f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
