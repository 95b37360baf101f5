"""The README as a package page shows it, where no file stands beside it.

A link to a file becomes one into the repository (`Source` under `[project.urls]`); while there is no address, its text
alone is left, and a picture is left out, since a dead link is worse than none. hatchling runs this when it builds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#|mailto:)([^)]+)\)")


def on_its_own(text: str, source: str, version: str) -> str:
    """Markdown without links to files beside it."""

    def replaced(link: re.Match[str]) -> str:
        picture, words, path = link.groups()
        if not source:
            return "" if picture else words
        return f"{picture}[{words}]({source.rstrip('/')}/{'raw' if picture else 'blob'}/v{version}/{path})"

    return _LINK.sub(replaced, text)


class ReadmeHook(MetadataHookInterface):
    """What `[tool.hatch.metadata.hooks.custom]` names."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the field `readme`."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source", "")
        metadata["readme"] = {
            "content-type": "text/markdown", "text": on_its_own(text, source, metadata["version"])
        }  # fmt: skip
