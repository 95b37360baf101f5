"""What makes results right, each broken by a change of one text, and a test that notices.

In the kernels the conditions of docs: exactness; in the pruning of models what methods and blocks are defined by.

`tests/solvers/test_mutants_apply.py` looks every day whether the texts and the tests are still there;
`tests/nightly/test_mutants.py` makes the changes, in a copy, and runs the tests.
"""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "solvers" / "tmask_solvers"
TMASK = ROOT / "tmask"
CONDITIONS = "tests/solvers/test_exactness_conditions.py"
CLOSED = "tests/solvers/test_closed.py"
JUDGING = "tests/solvers/test_cuda_judging.py"
CUDA, CODE = "tests/solvers/test_midpoint_cuda.py", "cuda_kernels/code"
METHODS, BLOCKWISE = "tests/nn/methods", "tests/nn/blockwise"


class Mutant(NamedTuple):
    """A text that stands once in a file of a package, what takes its place, and which tests fail then (`-k`)."""

    file: str
    old: str
    new: str
    tests: str
    chosen: str
    package: Path = KERNELS


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
    "columns left as ties fill them": Mutant(
        "cpu_kernels/midpoint/fallback.py", "    while over:", "    while False:", CONDITIONS, "lost_is_stated",
    ),
    "entries below the price taken": Mutant(
        "cpu_kernels/midpoint/fallback.py",
        "level |= (both >> 32) << k", "level |= (~both & 0xFF) << k", CONDITIONS, "lost_is_stated",
    ),
    "rounding to the grid kept quiet": Mutant(
        "cpu_kernels/midpoint/fallback.py",
        "if rounded else 0.0", "if False else 0.0", CONDITIONS, "lost_is_stated",
    ),
    "scores scaled to nothing kept quiet": Mutant(
        "cpu_kernels/midpoint/fallback.py",
        " | np.int64((score > 0.0) & (whole == 0.0))", "", CONDITIONS, "lost_is_stated",
    ),
    "wild prices in paths": Mutant(
        "cpu_kernels/midpoint/fallback.py",
        "if abs(price) < WILD_PRICE else", "if True else", CONDITIONS, "starts_from_anything",
    ),
    "no margin in closed forms": Mutant(
        "cpu_kernels/closed/solve.py",
        "total * GUARD)", "total * 0.0)", CLOSED, "told_apart or exactly_optimal",
    ),
    "projection not of squares": Mutant(
        "nn/methods/alps.py", "project(shifted.square(), found, certify=False)",
        "project(shifted.abs(), found, certify=False)",
        f"{METHODS}/test_alps.py", "each_projection_is_of_squares", TMASK,
    ),
    "multiplier of the wrong sign": Mutant(
        "nn/methods/alps.py", "multiplier = shifted.sub(kept)", "multiplier = kept.sub(shifted)",
        f"{METHODS}/test_alps.py", "near_the_best_of_all_masks or better_than_wanda", TMASK,
    ),
    "penalty that does not grow": Mutant(
        "nn/methods/alps.py", "rho *= self._growth(changed)", "rho *= 1.0",
        f"{METHODS}/test_alps.py", "stops_when_the_support", TMASK,
    ),
    "cross moments transposed in the goal": Mutant(
        "nn/methods/goal.py", "part.double().T", "part.double()",
        f"{METHODS}/test_problem.py", "goal_minimises", TMASK,
    ),
    "cross moments transposed where they are summed": Mutant(
        "nn/blockwise/moments.py", "self.xd.addmm_(x.T, d)", "self.xd.addmm_(d.T, x)",
        f"{BLOCKWISE}/test_prune_blocks.py", "errors_of_each_goal", TMASK,
    ),
    "damping left out": Mutant(
        "nn/methods/goal.py", "hessian = problem.moments + torch.diag(added)", "hessian = problem.moments.clone()",
        f"{METHODS}/test_problem.py", "hessian_holds_both", TMASK,
    ),
    "weights off the mask kept": Mutant(
        "nn/methods/method.py", "weight = torch.where(found.mask, found.weight, 0)", "weight = found.weight",
        f"{METHODS}/test_methods_contract.py", "test_answer", TMASK,
    ),
    "mask left out of the curvature in the refit": Mutant(
        "nn/methods/refit.py", "curved = (direction @ goal.hessian).mul_(kept)", "curved = direction @ goal.hessian",
        f"{METHODS}/test_refit.py", "slope_on_the_support", TMASK,
    ),
    "padding counted": Mutant(
        "nn/blockwise/batches.py", "for part in without_padding(batch, number)", "for part in [batch]",
        f"{BLOCKWISE}/test_prune_blocks.py", "padding_does_not_count", TMASK,
    ),
    "stages in the reverse order": Mutant(
        "nn/blockwise/layout.py", "layout.stages = list(stages.values())",
        "layout.stages = list(stages.values())[::-1]",
        f"{BLOCKWISE}/test_prune_blocks.py", "errors_of_each_goal", TMASK,
    ),
    "bias shifted the wrong way": Mutant(
        "nn/blockwise/pruning.py", "bias += _shift", "bias -= _shift",
        f"{BLOCKWISE}/test_prune_blocks.py", "errors_of_each_goal", TMASK,
    ),
    "blocks go on with weights that files do not hold": Mutant(
        "nn/blockwise/directory.py", "own.copy_(written[part.name])", "own.copy_(own)",
        f"{BLOCKWISE}/test_directory.py", "was_stopped_goes_on", TMASK,
    ),
    "block refit of what is there": Mutant(
        "nn/blockwise/block_refit.py", "wanted - behind", "behind - wanted",
        f"{BLOCKWISE}/test_block_refit.py", "no_step_is_for_the_worse", TMASK,
    ),
    "block refit off the mask": Mutant(
        "nn/blockwise/block_refit.py", "torch.zeros_like(own.xe.T), mask)",
        "torch.zeros_like(own.xe.T), torch.ones_like(mask))",
        f"{BLOCKWISE}/test_block_refit.py", "no_step_is_for_the_worse", TMASK,
    ),
    "each process with its own gradients": Mutant(
        "nn/blockwise/tuning.py", "dist.all_reduce(gradient)", "gradient.add_(0.0)",
        f"{BLOCKWISE}/test_distributed.py", "tune_and_refit_as_one", TMASK,
    ),
    "CUDA: rounding errors of a tie left out": Mutant(
        f"{CODE}/judge.py", "least_error >= most_error", "True", JUDGING, "rounding_ties",
    ),
    "CUDA: a tie taken for clear": Mutant(
        f"{CODE}/judge.py", "return least > most\n", "return least >= most\n", JUDGING, "rounding_ties",
    ),
    "CUDA: prices that are no numbers prove": Mutant(
        f"{CODE}/judge.py", " and abs(real(price)) < infinity", "", JUDGING, "not_finite_prove_nothing",
    ),
    "CUDA: idle teams are counted": Mutant(
        f"{CODE}/judge.py", "mine = real_tile and t < m", "mine = t < m", JUDGING, "figures_are_those",
    ),
    "CUDA: tiles of the first matrix alone": Mutant(
        f"{CODE}/places.py", "search if many else only", "only", JUDGING, "that_lie_anywhere",
    ),
    "CUDA: slacks of the first matrix alone": Mutant(
        f"{CODE}/paths.py", "cuda.atomic.add(slack, r,", "cuda.atomic.add(slack, 0,", JUDGING, "slacks_belong",
    ),
    "CUDA: one place in the list for all": Mutant(
        f"{CODE}/listing.py", "votes & ((1 << lane) - 1)", "votes & 0", CUDA, "closed_forms_leave_to_others",
    ),
    "CUDA: columns do not pay for a path": Mutant(
        f"{CODE}/search.py", "v[lane] += apart", "v[lane] += 0", CUDA,
        "prices_prove_the_masks or every_kind_are_optimal",
    ),
}  # fmt: skip
