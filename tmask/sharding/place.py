"""Which of several processes this one is: as the user says, or as the launcher's variables do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tmask.errors import InvalidProblemError

# torchrun, Open MPI, and others of MPI; counted from 0.
_RANKS = (("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))


@dataclass(frozen=True, slots=True)
class Place:
    """One process of several, counted from 1."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InvalidProblemError(f"shard {self.index}/{self.count}: give i/N, with i from 1 to N")


def parse_place(text: str) -> Place:
    """The place of a text "i/N".

    Raises:
        InvalidProblemError: of another form.
    """
    if not (found := re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)):
        raise InvalidProblemError(f"--shard {text!r}: write it as i/N, for example 2/8")
    return Place(int(found[1]), int(found[2]))


def place_from(environment: Mapping[str, str]) -> Place | None:
    """The place that a launcher gives; None where there is none, or one process alone.

    Raises:
        InvalidProblemError: variables that contradict each other, or do not say how many shards there are.
    """
    found = {}
    if "SLURM_ARRAY_TASK_ID" in environment:
        found["SLURM_ARRAY_TASK_ID"] = _array_place(environment)
    for rank, size in _RANKS:
        if rank in environment and _number(environment, size) > 1:
            found[rank] = Place(_number(environment, rank) + 1, _number(environment, size))
    if len({*found.values()}) > 1:
        said = ", ".join(f"{name} says {place.index}/{place.count}" for name, place in found.items())
        raise InvalidProblemError(f"{said}; give --shard i/N")
    return next(iter(found.values()), None)


def _array_place(environment: Mapping[str, str]) -> Place:
    """Of a whole array, from 0 or 1 on; a part of one, as it is run again, does not tell the number of shards."""
    index, count, first, last = (_number(environment, f"SLURM_ARRAY_TASK_{n}") for n in ("ID", "COUNT", "MIN", "MAX"))
    if count < 2 or first not in (0, 1) or last - first != count - 1:
        raise InvalidProblemError(
            f"a Slurm array of {count} from {first} to {last} does not say how many shards there are; give --shard i/N "
            "(1/1 for the whole file)"
        )
    return Place(index - first + 1, count)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InvalidProblemError(f"{name} is {text!r}, no number; give --shard i/N")
    return int(text)
