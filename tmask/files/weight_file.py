"""What every format opens as: named tensors, read one at a time."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tmask.errors import FileFormatError
from tmask.files.damage import DAMAGE, describe
from tmask.files.room import check_memory
from tmask.files.tensors import Tensor


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Named tensors of a file.

    Args:
        path: of the file.
        shapes, dtypes: by tensor name, in the order of the file; of every tensor, readable or not.
        load: reads a tensor by name.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    load: Callable[[str], Tensor]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors."""
        return tuple(self.shapes)

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            FileFormatError: no tensor has that name, or its contents cannot be read.
        """
        if name not in self.shapes:
            close = difflib.get_close_matches(name, self.names, 3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise FileFormatError(f"{self.path} holds no tensor {name!r}{hint}")
        try:
            check_memory(self.dtypes[name], self.shapes[name])
            return self.load(name)
        except FileFormatError:
            raise
        except DAMAGE as error:
            raise FileFormatError(f"{self.path}: tensor {name!r} cannot be read ({describe(error)})") from error
