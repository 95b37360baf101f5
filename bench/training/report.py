"""Tables and plots from the benchmark's CSV alone.

python -m bench.training.report [CSV]
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bench.run import RESULTS
from bench.training.figures import draw_figures
from bench.training.paired import Difference, difference, judge
from bench.training.results import TaskResults, read_results
from bench.training.settings import PATTERNS, Setting
from tmask.files.atomic import atomic_path

_EXPLANATION = """\
`exact` and `greedy` are transposable masks from `midpoint` and from `greedy-keep` with its repair (both keep n of m in
every row and column), renewed while training from scratch; `plain` keeps n of m along the input axis alone. `dense
again` and `frozen` train the dense run of the same seed for the same steps once more, with no masks and with the exact
masks of its weights, so they have had twice the steps; they are compared with each other.

Differences are paired by seed. In brackets: the half-width of the 95 % interval of Student's t. *Within noise* says
that the interval contains 0. Of twenty such comparisons one lies outside by chance alone.
"""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def spread(values: Sequence[float], factor: float = 1, digits: int = 4) -> str:
    """Mean and sample deviation."""
    mean = f"{factor * statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {factor * statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def signed(found: Difference, factor: float = 1, digits: int = 4) -> str:
    """A mean difference with the half-width of its interval."""
    mean = f"{factor * found.mean:+.{digits}f}"
    return mean if math.isinf(found.half_width) else f"{mean} (± {factor * found.half_width:.{digits}f})"


def verdict(found: Difference) -> str:
    """Of a difference of losses."""
    if found.seeds < 2:
        return "one seed: cannot say"
    return "yes" if found.within_noise else f"no, {'worse' if found.mean > 0 else 'better'}"


def settings_table(results: TaskResults) -> str:
    """Every setting: how well it does, and how far from dense."""
    rows = []
    for setting in results.settings:
        loss, accuracy = (results.final(setting, f"test_{what}") for what in ("loss", "accuracy"))
        cells = [setting.name, spread(list(loss.values())), spread(list(accuracy.values()), 100, 2)]
        if setting.masks == "none":
            rows.append([*cells, "", "", "", ""])
            continue
        by_loss = difference(loss, results.final(setting.reference, "test_loss"))
        by_accuracy = difference(accuracy, results.final(setting.reference, "test_accuracy"))
        rows.append([*cells, signed(by_loss), _p(by_loss), verdict(by_loss), signed(by_accuracy, 100, 2)])
    header = ("setting", "test loss", "accuracy %", "loss - dense", "p", "within noise", "accuracy - dense")
    return markdown(header, rows)


def solvers_table(results: TaskResults) -> str:
    """Exact minus greedy at equal everything, by pattern and over all patterns."""
    rows, by_seed = [], dict[int, list[float]]()
    for pattern in PATTERNS:
        exact, greedy = Setting("exact", pattern), Setting("greedy", pattern)
        ours, theirs = results.final(exact, "test_loss"), results.final(greedy, "test_loss")
        if not ours.keys() & theirs.keys():
            continue
        for seed in ours.keys() & theirs.keys():
            by_seed.setdefault(seed, []).append(ours[seed] - theirs[seed])
        found = difference(ours, theirs)
        more = difference(results.final(exact, "test_accuracy"), results.final(greedy, "test_accuracy"))
        gap = results.mean(greedy, "gap") or 0.0
        rows.append([pattern, f"{100 * gap:.2f}", signed(found), _p(found), verdict(found), signed(more, 100, 2)])
    complete = [statistics.fmean(values) for values in by_seed.values() if len(values) == len(rows)]
    if complete:
        found = judge(complete)
        rows.append(["all, averaged by seed", "", signed(found), _p(found), verdict(found), ""])
    header = ("pattern", "greedy's gap %", "loss, exact - greedy", "p", "within noise", "accuracy, exact - greedy")
    return markdown(header, rows)


def renewals_table(results: TaskResults) -> str:
    """What renewing masks costs, and what the masks do meanwhile."""
    rows = []
    for setting in results.settings:
        step, renewal = (results.median(setting, f"{what}_seconds") for what in ("step", "renewal"))
        if step is None or renewal is None or setting.pretrained:
            continue
        flips = results.curve(setting, "flip_rate")
        rows.append(
            [
                setting.name,
                f"{1e3 * step:.1f}",
                f"{1e3 * renewal:.2f}",
                *(f"{100 * renewal / (renewal + every * step):.2g}" for every in (40, 1)),
                f"{100 * (results.mean(setting, 'retained') or 0):.1f}",
                " to ".join(f"{100 * statistics.fmean(flips[step]):.2g}" for step in (min(flips), max(flips))),
            ]
        )
    every_40, every_1 = (f"share at every={every}, %" for every in (40, 1))
    header = (
        "setting",
        "step, ms",
        "renewal, ms",
        every_40,
        every_1,
        "|weight| kept, %",
        "flip rate, first to last, %",
    )
    return markdown([name.replace("|", "\\|") for name in header], rows)


def report(results: Sequence[TaskResults], source: str) -> str:
    """The whole page."""
    parts = ["# Training under masks\n", _EXPLANATION]
    for result in results:
        row = result.example
        seeds = sorted({seed for by_seed in result.rows.values() for seed in by_seed})
        share = max(int(rows[-1]["under_mask"]) for by in result.rows.values() for rows in by.values())
        dates = [rows[-1]["date"][:10] for by in result.rows.values() for rows in by.values()]
        commits = sorted({rows[-1]["commit"] for by in result.rows.values() for rows in by.values()})
        parts += [
            f"\n## {result.task.capitalize()}: {row['data']}\n",
            f"{row['sizes']}; {int(row['parameters']):,} weights, {share:,} of them under masks; seeds "
            f"{', '.join(map(str, seeds))}; masks renewed every {row['every']} steps. Always guessing by frequency has "
            f"a loss of {float(row['trivial_loss']):.3f}.\nDrawn from `{source}`: commit {', '.join(commits)}, "
            f"{row['device']}, {row['cpu']}, threads: {row['threads']}, torch {row['torch']}, {max(dates)}.\n",
            settings_table(result),
            "\n### Do optimal masks train better than greedy ones?\n",
            "Everything equal but the solver; the gap is that of the greedy masks to the best ones for the same "
            "weights, mean over all renewals.\n",
            solvers_table(result),
            "\n### Renewals\n",
            "Medians over all steps and renewals of the runs; shares are renewal / (renewal + every * step).\n",
            renewals_table(result),
        ]
    return "\n".join(parts) + "\n"


def _p(found: Difference) -> str:
    return "-" if math.isnan(found.p) else f"{found.p:.2g}"


def main(csv: Annotated[Path, typer.Argument(help="Rows of bench.training.run.")] = RESULTS / "training.csv") -> None:
    """Write CSV.md and the plots beside the CSV."""
    results = read_results(csv)
    target = csv.with_suffix(".md")
    with atomic_path(target) as temporary:
        temporary.write_text(report(results, csv.name))
    for path in (target, *draw_figures(results, csv)):
        print(path)


if __name__ == "__main__":
    typer.run(main)
