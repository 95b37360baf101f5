"""Tables and plots from the benchmark's CSV alone.

python -m bench.training.report [CSV]
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bench import markdown
from bench.rows import RESULTS, read_rows
from bench.training.cells import p_value, signed, spread, verdict
from bench.training.figures import draw_figures
from bench.training.paired import difference, judge
from bench.training.pieces import alone_table, fresh_table, rates_table, without_table
from bench.training.results import Row, TaskResults, read_results
from bench.training.settings import CHOSEN_AT, CHOSEN_ON, GROUPS, PATTERNS, Setting

_EXPLANATION = """\
`exact` and `greedy` are transposable masks from `midpoint` and from `greedy-keep` with its repair (both keep n of m in
every row and column), renewed while training from scratch; `plain` keeps n of m along the input axis alone. `dense
again` and `frozen` train the dense run of the same seed for the same steps once more, with no masks and with the exact
masks of its weights, so they have had twice the steps; they are compared with each other, and with the recipe on that
run's weights (`recipe again`).

`recipe` is `tmask.nn.transposable`: dense for the first quarter, n falling to its target in the second, hysteresis 0.2
and smoothing 0.5 at every renewal, no decay of masked weights, masks to the end. `recipe, dense end` has its target
from 25 % to 60 % of the steps and is dense before and after. `feed-forward` leaves attention dense.

Half way, right behind a renewal, test losses of the ResNet are those of batch norms that have seen other masks.

Differences are paired by seed. In brackets: the half-width of the 95 % interval of Student's t. *Within noise* says
that the interval contains 0. Of twenty such comparisons one lies outside by chance alone.
"""


def settings_table(results: TaskResults) -> str:
    """The main settings: how well each does, and how far from dense."""
    rows = []
    for setting in results.settings:
        if setting not in GROUPS["main"]:
            continue
        loss, accuracy = (results.final(setting, f"test_{what}") for what in ("loss", "accuracy"))
        cells = [setting.name, spread(list(loss.values())), spread(list(accuracy.values()), 100, 2)]
        if setting.masks == "none":
            rows.append([*cells, "", "", "", ""])
            continue
        by_loss = difference(loss, results.final(setting.reference, "test_loss"))
        by_accuracy = difference(accuracy, results.final(setting.reference, "test_accuracy"))
        rows.append([*cells, signed(by_loss), p_value(by_loss), verdict(by_loss), signed(by_accuracy, 100, 2)])
    header = ("setting", "test loss", "accuracy %", "loss - dense", "p", "within noise", "accuracy - dense")
    return markdown.table(header, rows)


def solvers_table(results: TaskResults, levers: str = "") -> str:
    """Exact minus greedy at equal everything, by pattern and over all patterns.

    Args:
        levers: that both are given.
    """
    rows, by_seed = [], dict[int, list[float]]()
    for pattern in PATTERNS:
        exact, greedy = (Setting(masks, pattern, levers=levers) for masks in ("exact", "greedy"))
        ours, theirs = results.final(exact, "test_loss"), results.final(greedy, "test_loss")
        if not ours.keys() & theirs.keys():
            continue
        for seed in ours.keys() & theirs.keys():
            by_seed.setdefault(seed, []).append(ours[seed] - theirs[seed])
        found = difference(ours, theirs)
        more = difference(results.final(exact, "test_accuracy"), results.final(greedy, "test_accuracy"))
        gap = results.mean(greedy, "gap") or 0.0
        rows.append([pattern, f"{100 * gap:.2f}", signed(found), p_value(found), verdict(found), signed(more, 100, 2)])
    if not rows:
        return ""
    complete = [statistics.fmean(values) for values in by_seed.values() if len(values) == len(rows)]
    if complete:
        found = judge(complete)
        rows.append(["all, averaged by seed", "", signed(found), p_value(found), verdict(found), ""])
    header = ("pattern", "greedy's gap %", "loss, exact - greedy", "p", "within noise", "accuracy, exact - greedy")
    return markdown.table(header, rows)


def price_of_transposing(results: TaskResults) -> str:
    """What asking for n of m along both axes costs beside n of m along one."""
    ours, theirs = (results.final(Setting(masks, "2:4"), "test_loss") for masks in ("exact", "plain"))
    if not ours.keys() & theirs.keys():
        return ""
    found = difference(ours, theirs)
    return f"Loss, `exact 2:4` - `plain 2:4`: {signed(found)}, p = {p_value(found)}; within noise: {verdict(found)}."


def masks_table(results: TaskResults) -> str:
    """What the masks are like, and whether they settle."""
    rows = []
    for setting in results.settings:
        if setting not in GROUPS["main"]:
            continue
        retained, flips = results.curve(setting, "retained"), results.curve(setting, "flip_rate")
        if not retained:
            continue
        ends = (min(flips), max(flips)) if flips else ()
        gap = results.mean(setting, "gap")
        rows.append(
            [
                setting.name,
                f"{100 * statistics.fmean(retained[max(retained)]):.1f}",
                "" if gap is None else f"{100 * gap:.2f}",
                " to ".join(f"{100 * statistics.fmean(flips[step]):.2g}" for step in ends),
            ]
        )
    header = ("setting", "share of weight kept, %", "gap to the best masks, %", "flip rate, first to last renewal, %")
    return markdown.table(header, rows)


def costs_table(task: str, rows: Sequence[Row]) -> str:
    """What renewals cost, from the rows of `bench.training.renewals`."""
    mine = [row for row in rows if row["task"] == task]
    if not mine:
        return ""
    cells = [
        [
            row["setting"],
            f"{1e3 * float(row['step_seconds']):.1f}",
            f"{1e3 * float(row['renewal_seconds']):.2f}",
            *(f"{100 * float(row[f'share_every_{every}']):.2g}" for every in (40, 1)),
        ]
        for row in mine
    ]
    shares = (f"share of the time at every={every}, %" for every in (40, 1))
    clock = {"CPU": "CPU time", "wall": "wall clock"}[mine[0]["clock"]]
    note = f"Medians, {clock}; commit {mine[0]['commit']}, {mine[0]['device']}, {mine[0]['date'][:10]}.\n\n"
    return note + markdown.table(("setting", "step, ms", "renewal, ms", *shares), cells)


def _section(title: str, *parts: tuple[str, str]) -> list[str]:
    """Tables under a title, each behind what it says; nothing for what has no rows."""
    shown = [f"{text}\n{table}\n" if text else f"{table}\n" for text, table in parts if table]
    return [f"### {title}\n", *shown] if shown else []


def _head(result: TaskResults, source: str) -> str:
    """What the rows of a task share."""
    row = result.example
    last = [rows[-1] for by_seed in result.rows.values() for rows in by_seed.values()]
    seeds = sorted({seed for by_seed in result.rows.values() for seed in by_seed})
    share = max(int(row["under_mask"]) for row in last)
    chosen = "" if row["scale"] == CHOSEN_AT else f" The recipe was chosen at scale `{CHOSEN_AT}`, nothing by these."
    return (
        f"{row['sizes'].replace('_', ' ')}; {int(row['parameters']):,} weights, {share:,} of them under masks; "
        f"seeds {', '.join(map(str, seeds))}; masks renewed every {row['every']} steps. Always guessing by "
        f"frequency has a loss of {float(row['trivial_loss']):.3f}.{chosen}\n"
        f"Drawn from `{source}`: commit {', '.join(sorted({row['commit'] for row in last}))}, "
        f"{row['device']}, {row['cpu']}, threads: {row['threads']}, torch {row['torch']}, "
        f"{max(row['date'][:10] for row in last)}.\n"
    )


def report(results: Sequence[TaskResults], costs: Sequence[Row], source: str) -> str:
    """The whole page, without what was not run."""
    parts = ["# Training under masks\n", _EXPLANATION]
    for result in results:
        parts += [
            f"## {result.task.capitalize()}: {result.example['data']}\n",
            _head(result, source),
            settings_table(result) + "\n",
            *_section(
                "Do optimal masks train better than greedy ones?",
                (
                    "Everything equal but the solver; the gap is that of the greedy masks to the best ones for the "
                    "same weights, mean over all renewals.\n",
                    solvers_table(result),
                ),
                (
                    "The same under the recipe, whose hysteresis keeps entries that are not the best any more:\n",
                    solvers_table(result, "recipe"),
                ),
            ),
            *_section(
                "What does each piece of the recipe give?",
                (
                    "Alone, beside masks that are found anew every so many steps and nothing else:\n",
                    alone_table(result),
                ),
                ("Taken away from the recipe, or added to it:\n", without_table(result)),
            ),
            *_section(
                "On seeds that chose nothing",
                (
                    f"The recipe was chosen by losses of seeds 0 to {CHOSEN_ON - 1}, which flatter it. Later ones "
                    "alone:\n",
                    fresh_table(result),
                ),
            ),
            *_section("At other learning rates", ("", rates_table(result))),
            *_section("What does it cost that masks are transposable?", ("", price_of_transposing(result))),
            *_section("Masks", ("", masks_table(result))),
            *_section("What renewals cost", ("", costs_table(result.task, costs))),
        ]
    return "\n".join(parts)


def main(csv: Annotated[Path, typer.Argument(help="Rows of bench.training.run.")] = RESULTS / "training.csv") -> None:
    """Write CSV.md and the plots beside the CSV."""
    results = read_results(csv)
    costs = read_rows(csv.with_name(f"{csv.stem}_renewals.csv"))
    page = markdown.write_page(csv, report(results, costs, csv.name))
    for path in (page, *draw_figures(results, csv)):
        print(path)


if __name__ == "__main__":
    typer.run(main)
