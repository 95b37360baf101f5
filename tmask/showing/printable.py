"""Names as a terminal may be given them."""

from __future__ import annotations


def printable(text: str, encoding: str = "utf-8") -> str:
    """The text with escapes in place of what a terminal would obey, or what the encoding does not have.

    Names come from files, and files from strangers: a layer's name may hold an escape sequence, a change of the
    direction of writing, or half a character.
    """
    shown = "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
