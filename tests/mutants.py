"""The conditions of docs: exactness, each broken by a change of one text in the kernels, and a test that notices.

`tests/solvers/test_mutants_apply.py` looks every day whether the texts and the tests are still there;
`tests/nightly/test_mutants.py` makes the changes, in a copy, and runs the tests.
"""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "solvers" / "tmask_solvers"
CONDITIONS = "tests/solvers/test_exactness_conditions.py"
CLOSED = "tests/solvers/test_closed.py"


class Mutant(NamedTuple):
    """A text that stands once in a file of the kernels, what takes its place, and which tests fail then (`-k`)."""

    file: str
    old: str
    new: str
    tests: str
    chosen: str


MUTANTS = {
    "comparison not strict": Mutant(
        "cpu_kernels/midpoint/lanes.py",
        'fcmp_ordered(">", x[j], b)', 'fcmp_ordered(">=", x[j], b)', CONDITIONS, "strictly_larger",
    ),
    "fast flags on subtractions": Mutant(
        "cpu_kernels/midpoint/lanes.py",
        'emit.constant(j))) for j', 'emit.constant(j)), flags=("fast",)) for j',
        CONDITIONS, "fused_or_reordered",
    ),
    "fast mathematics in kernels": Mutant(
        "cpu_kernels/compiling.py", "fastmath=False", "fastmath=True", CONDITIONS, "lost_is_stated",
    ),
    "fast flags in closed forms": Mutant(
        "cpu_kernels/vector.py", "self.builder.fsub(self.value, self._other(other))",
        'self.builder.fsub(self.value, self._other(other), flags=("fast",))', CLOSED, "told_apart or exactly_optimal",
    ),
    "no grid for parted ties": Mutant(
        "cpu_kernels/midpoint/ties.py",
        "good &= (score + magic) - magic == score", "good &= True", CONDITIONS, "lost_is_stated",
    ),
    "no proof of parted ties": Mutant(
        "cpu_kernels/midpoint/ties.py",
        "good = (unproven >> place) & 1 == 0", "good = True", CONDITIONS, "lost_is_stated",
    ),
    "rounding to the grid kept quiet": Mutant(
        "cpu_kernels/midpoint/fallback.py",
        "if rounded else 0.0", "if False else 0.0", CONDITIONS, "lost_is_stated",
    ),
    "scores scaled to nothing kept quiet": Mutant(
        "cpu_kernels/augment.py",
        " or (score[i, j] > 0 and q[i, j] == 0)", "", CONDITIONS, "lost_is_stated",
    ),
    "wild prices in paths": Mutant(
        "cpu_kernels/midpoint/fallback.py",
        "if abs(price) < WILD_PRICE else", "if True else", CONDITIONS, "starts_from_anything",
    ),
    "no margin in closed forms": Mutant(
        "cpu_kernels/closed/solve.py",
        "total * GUARD)", "total * 0.0)", CLOSED, "told_apart or exactly_optimal",
    ),
}  # fmt: skip
