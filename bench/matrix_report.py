"""Tables and the cost curve from the rows of bench.matrix alone.

python -m bench.matrix_report [CSV]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import pandas as pd
import typer

from bench import markdown
from bench.rows import RESULTS
from tmask.files.atomic import atomic_path
from tmask.showing.styles import COLOURS, MARKERS, RC, save_options

# Draws without a screen.
mpl.use("Agg")

_THREADS = {1: " thread", 2: " threads"}
_OTHERS = ("greedy-keep", "ortools-flow", "networkx-simplex")


def _micro(rows: pd.DataFrame, column: str = "seconds") -> pd.Series:
    return 1e6 * rows[column] / rows["blocks"]


def _pattern(rows: pd.DataFrame) -> pd.Series:
    return rows["n"].astype(int).astype(str) + ":" + rows["m"].astype(int).astype(str)


def _markdown(table: pd.DataFrame) -> str:
    rows = [[str(name), *("" if pd.isna(x) else f"{x:.3g}" for x in row)] for name, row in table.iterrows()]
    return markdown.table(["", *map(str, table.columns)], rows)


def _pivot(rows: pd.DataFrame, column: str, values: pd.Series) -> pd.DataFrame:
    """Medians, patterns across in the order of the rows."""
    rows = rows.assign(pattern=_pattern(rows), value=values)
    table = rows.pivot_table(index=column, columns="pattern", values="value", aggfunc="median", sort=False)
    table.index = [f"{key:g}" if isinstance(key, float) else str(key) for key in table.index]
    return table[list(dict.fromkeys(rows["pattern"]))]


def ratios(rows: pd.DataFrame) -> str:
    """How many times as long as `midpoint` the others take, and `midpoint` against reading and writing."""
    text = ""
    for case, part in rows.groupby("case", sort=False):
        calls = _pivot(part, "solver", _micro(part))
        alone = _pivot(part, "solver", _micro(part, "solver_seconds"))
        lines = {
            "`midpoint`, us a block": calls.loc["midpoint"],
            "`midpoint` / read and write": calls.loc["midpoint"] / calls.loc["read and write"],
            "the same, search and checks of `midpoint` alone": alone.loc["midpoint"] / calls.loc["read and write"],
        }
        for name in _OTHERS:
            lines[f"`{name}` / `midpoint`"] = calls.loc[name] / calls.loc["midpoint"]
        lines["the same, `greedy-keep` without the checks around it"] = alone.loc["greedy-keep"] / calls.loc["midpoint"]
        spread = part[part["solver"] == "midpoint"].assign(value=_micro(part))
        quartiles = spread.groupby(["n", "m"], sort=False)["value"].quantile([0.25, 0.75]).unstack()
        lines["spread of `midpoint`: upper / lower quartile"] = pd.Series(
            (quartiles[0.75] / quartiles[0.25]).to_numpy(), calls.columns
        )
        text += f"\n### {case}\n\n{_markdown(pd.DataFrame(lines).T)}\n"
    return text


def threads(rows: pd.DataFrame) -> str:
    """Milliseconds a call by threads, and how many times as fast two are, of the solver and of reading and writing."""
    names = rows["solver"] + ", " + rows["threads"].astype(int).astype(str) + rows["threads"].map(_THREADS)
    table = _pivot(rows.assign(who=names), "who", 1e3 * rows["seconds"])
    # Rows of earlier commits have the solver alone.
    for solver in dict.fromkeys(rows["solver"]):
        one, two = (table.loc[f"{solver}, {count}{_THREADS[count]}"] for count in (1, 2))
        table.loc[f"{solver}: times as fast with 2"] = one / two
    return "\n" + _markdown(table) + "\n"


def curve(rows: pd.DataFrame, target: Path) -> str:
    """Nanoseconds a weight against the side of the matrix: a table, and a plot beside the CSV."""
    import matplotlib.pyplot as plt

    rows = rows.assign(side=rows["side"].astype(int))
    values = 1e9 * rows["seconds"] / rows["side"] ** 2
    table = _pivot(rows, "side", values)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    sides = [int(side) for side in table.index]
    for pattern, colour, marker in zip(table.columns, COLOURS, MARKERS, strict=False):  # told apart in grey, too
        axes.plot(sides, table[pattern], color=colour, marker=marker, label=pattern)
    axes.set(xscale="log", yscale="log", xlabel="side of the matrix", ylabel="nanoseconds a weight", ylim=(0.1, None))
    axes.set_xticks([int(side) for side in table.index], list(table.index))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(title="tmask.solve", ncols=2)
    for suffix in (".png", ".svg"):
        path = target.with_name(target.stem + "_curve" + suffix)
        # The salt of SVG's names is read when the figure is saved.
        with atomic_path(path) as temporary, mpl.rc_context(RC):
            figure.savefig(temporary, **save_options(path))
    plt.close(figure)
    return "\n" + _markdown(table) + "\n"


def report(csv: Path) -> str:
    """The whole page."""
    rows = pd.read_csv(csv)
    first = rows.iloc[0]
    text = (
        f"# {csv.stem}\n\n`tmask.solve` as a user calls it. Medians; drawn from `{csv.name}`: commit "
        f"{first['commit']}, {first['cpu']}, {str(first['date'])[:10]}. One thread unless said otherwise.\n"
    )
    parts = dict(list(rows.groupby("part", sort=False)))

    for name, title in (
        ("ratios", "2048 x 2048 float32: times as long as `midpoint`"),
        ("threads", "Milliseconds a matrix, by threads"),
        ("dtypes", "2048 x 2048: microseconds a block, by dtype"),
        ("distributions", "2048 x 2048: microseconds a block, by kind of weights"),
        ("curve", "Nanoseconds a weight, by side of the matrix"),
        ("proofs", "A million blocks and more: proven by `certify`, of how many"),
        ("warm_start", "A layer in training, 1024 x 1024: microseconds a block"),
        ("compiling", "Seconds of the first call in a fresh process"),
    ):
        if name not in parts:
            continue
        part = parts[name]
        if name == "ratios":
            body = ratios(part)
        elif name == "threads":
            body = threads(part)
        elif name == "curve":
            body = curve(part, csv)
        elif name == "proofs":
            counts = part.assign(pattern=_pattern(part)).set_index("pattern")[["proven", "blocks"]].astype(int)
            cells = [[str(p), str(row["proven"]), str(row["blocks"])] for p, row in counts.iterrows()]
            body = "\n" + markdown.table(["pattern", "proven", "blocks"], cells) + "\n"
        elif name == "compiling":
            body = "\n" + _markdown(_pivot(part, "case", part["seconds"])) + "\n"
            if part["solver_seconds"].notna().all():  # not in rows of earlier commits
                cpu = _markdown(_pivot(part, "case", part["solver_seconds"]))
                body += f"\nOf these, seconds of the processor, which other processes add nothing to:\n\n{cpu}\n"
        else:
            by = {"dtypes": "dtype", "distributions": "case", "warm_start": "case"}[name]
            body = "\n" + _markdown(_pivot(part, by, _micro(part))) + "\n"
        text += f"\n## {title}\n{body}"
    return text


def main(csv: Annotated[Path, typer.Argument(help="Rows of bench.matrix.")] = RESULTS / "matrix.csv") -> None:
    """Write CSV.md and the plot beside the CSV."""
    text = report(csv)
    markdown.write_page(csv, text)
    print(text)


if __name__ == "__main__":
    typer.run(main)
