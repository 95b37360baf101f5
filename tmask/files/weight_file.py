"""What every format opens as: named tensors, read one at a time."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
        load_part: reads entries of one, from and up to which in C order, flat; None where the format cannot.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    load: Callable[[str], Tensor]
    load_part: Callable[[str, int, int], Tensor] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors."""
        return tuple(self.shapes)

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            FileFormatError: no tensor has that name, or its contents cannot be read.
        """
        self._check_name(name)
        with self._reading(name):
            check_memory(self.dtypes[name], self.shapes[name])
            return self.load(name)

    def parts(self, name: str) -> Callable[[int, int], Tensor]:
        """A reader of some entries of a tensor, flat: from and up to which in C order.

        Where the format cannot read a part, the reader holds the tensor as long as it lives.

        Raises:
            FileFormatError: as `read`; the reader does, too.
        """
        if self.load_part is None:
            whole = self.read(name)
            return lambda start, stop: Tensor(whole.dtype, whole.bits.reshape(-1)[start:stop])
        self._check_name(name)
        load_part = self.load_part

        def read_part(start: int, stop: int) -> Tensor:
            with self._reading(name):
                check_memory(self.dtypes[name], (stop - start,))
                return load_part(name, start, stop)

        return read_part

    def _check_name(self, name: str) -> None:
        if name not in self.shapes:
            close = difflib.get_close_matches(name, self.names, 3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise FileFormatError(f"{self.path} holds no tensor {name!r}{hint}")

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileFormatError:
            raise
        except DAMAGE as error:
            raise FileFormatError(f"{self.path}: tensor {name!r} cannot be read ({describe(error)})") from error
