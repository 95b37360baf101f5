"""A page and a picture from the rows of `bench.llm` alone, and of `bench.llm_training` beside them.

python -m bench.llm_report [CSV]
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import markdown
from bench.llm import METHODS, TARGETS
from bench.rows import RESULTS, read_rows
from tmask.errors import FileFormatError
from tmask.files.atomic import atomic_path
from tmask.showing.styles import COLOURS, GRID, MARKERS, RC_PANELS, point_style, save_options

Rows = list[dict[str, Any]]

TEXT = """\
# Language models pruned end to end

Perplexity of the pruned model over that of the dense one, on text that was not used before: mean over seeds of the
calibration samples, with range and number where there is more than one seed. Empty where nothing was run. Drawn from
`{name}`: commits {commits}; {cpu}, threads: {threads}, {date}.

- `transposable`: N:M along inputs and outputs; masks proven optimal for the scores that decide them, but for rows that
  name another solver. `plain`: along the inputs alone.
- `refitted`: kept weights by least squares; `alps` always is. `block refit` fits what is missing behind attention and
  MLP as well, and `tuned` adds two epochs of gradient steps on each block. Goal `dense`, what the dense model has at
  each place, unless a row says `layer`, what the dense layer gives.
- Lower is better, 1 is the dense model.

{tables}
"""

COSTS = """\
Mean relative error of the layers' outputs, seconds, and memory (MiB: the peak, and the part of it beyond what the
process held before, one block in float32 and the hidden states, as a share of the model's files):

{table}
"""

DEPTH = """\
## Cost against depth

The first blocks of the same model. Seconds grow by what one block takes; memory by nothing but the block's share of
files that are mapped.

{table}
"""


TRAINING = """\
## Trained on with frozen masks

Perplexity before and after {minutes} minutes of AdamW on the text's first part: {batch} sequences of {length}
tokens a step, learning rate {learning_rate} falling to 0; threads: {threads}; commits {commits}. {beside}
From `{name}`.

{table}
"""


def method_name(row: dict[str, Any]) -> str:
    """A method, and what of it differs from the default."""
    others = [row["solver"]] * (row["solver"] != "auto") + [f"goal {row['goal']}"] * (row["goal"] != "dense")
    return ", ".join([row["method"], *others])


def groups(rows: Rows, *names: str) -> dict[tuple[str, ...], Rows]:
    """Rows by some columns, in the order in which they come."""
    found: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def mean_and_range(values: list[float]) -> str:
    """Mean, and where there are several the range and the number."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.fmean(values):.2f} ({min(values):.2f}-{max(values):.2f}, {len(values)})"


def _methods(rows: Rows) -> list[str]:
    """The methods that rows have, from cheap to dear, each with its variants behind it."""
    order = {name: index for index, name in enumerate(METHODS)}
    found = {method_name(row): order.get(row["method"], len(order)) for row in rows}
    return sorted(found, key=lambda name: (found[name], len(name), name))


def _targets(rows: Rows) -> list[str]:
    there = {row["target"] for row in rows}
    return [target for target in TARGETS if target in there] + sorted(there - {*TARGETS})


def ratios(rows: Rows) -> str:
    """Methods down, targets across."""
    targets = _targets(rows)
    lines = []
    for method in _methods(rows):
        own = [row for row in rows if method_name(row) == method]
        cells = [mean_and_range([float(r["ratio"]) for r in own if r["target"] == target]) for target in targets]
        lines.append([method, *cells])
    return markdown.table(["method", *targets], lines)


def _beyond(row: dict[str, Any]) -> float:
    """Memory beyond what the process had, a block and the hidden states, as a share of the model's files."""
    peak, before, block, states, model = (
        float(row[f"{name}_mib"]) for name in ("peak", "before", "block", "states", "model")
    )
    return max(0.0, peak - before - block - states) / model


def _medians(rows: Rows) -> tuple[str, str, str]:
    """Seconds, peak and share beyond."""
    seconds, peak = (statistics.median(float(row[name]) for row in rows) for name in ("seconds", "peak_mib"))
    return f"{seconds:.0f}", f"{peak:.0f}", f"{statistics.median(map(_beyond, rows)):.2f}"


def costs(rows: Rows) -> str:
    """A line for each method and target."""
    lines = []
    for target in _targets(rows):
        for method in _methods(rows):
            own = [row for row in rows if (row["target"], method_name(row)) == (target, method)]
            if own:
                error = statistics.fmean(float(row["error_mean"]) for row in own)
                density = statistics.fmean(float(row["density"]) for row in own)
                lines.append([target, method, f"{error:.4f}", f"{100 * density:.1f}%", *_medians(own)])
    return markdown.table(["target", "method", "layer error", "kept", "seconds", "peak", "beyond / model"], lines)


def depths(rows: Rows) -> str:
    """A line for each method and number of blocks."""
    lines = []
    for (target, method, blocks), own in sorted(
        groups(rows, "target", "method", "blocks").items(), key=lambda item: (item[0][:2], int(item[0][2]))
    ):
        seconds, peak, beyond = _medians(own)
        each = statistics.median(float(row["seconds"]) for row in own) / int(blocks)
        size = statistics.median(float(row["model_mib"]) for row in own)
        lines.append([method, target, blocks, seconds, f"{each:.2f}", f"{size:.0f}", peak, beyond])
    header = ["method", "target", "blocks", "seconds", "seconds / block", "model MiB", "peak", "beyond / model"]
    return markdown.table(header, lines)


def training(rows: Rows, name: str) -> str:
    """A line for each model that was trained on."""
    lines = []
    for row in rows:
        before, after = (f"{float(row[column]):.2f}" for column in ("perplexity_before", "perplexity"))
        lines.append([row["method"] or "none", row["target"], before, after, row["steps"]])
    first = {column: rows[0][column] for column in ("minutes", "batch", "length", "learning_rate", "threads")}
    table = markdown.table(["method", "target", "before", "after", "steps"], lines)
    trained = any(row["target"] == "dense" for row in rows)
    beside = (
        "The dense model was trained for the same time: what it gains is the text's."
        if trained
        else "There is no row of the dense model, so what of the gain is the text's is not told."
    )
    return TRAINING.format(name=name, table=table, commits=commits(rows), beside=beside, **first)


def commits(rows: Rows) -> str:
    """At which rows were measured."""
    return ", ".join(sorted({row["commit"] for row in rows}))


def _title(key: Iterable[str], rows: Rows) -> str:
    model, text, samples, length, windows = key
    dense = sorted({f"{float(row['dense_perplexity']):.2f}" for row in rows})
    return (
        f"## {model}, {samples} samples of {length} tokens\n\nText: {text}; {windows} disjoint windows of {length} "
        f"tokens, dense perplexity {', '.join(dense)}."
    )


def draw(rows: Rows, path: Path) -> None:
    """Perplexity over dense, targets across, a marker for each method; hollow for another solver or goal."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    methods, targets = _methods(rows), _targets(rows)
    plain = [name for name in methods if "," not in name]
    styles = dict(zip(plain, zip(COLOURS, MARKERS, strict=False), strict=False))
    with rc_context(RC_PANELS):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for index, method in enumerate(methods):
            own = [row for row in rows if method_name(row) == method]
            base = method.partition(",")[0]
            colour, marker = styles.get(base, (COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]))
            shift = 0.6 * ((index + 0.5) / len(methods) - 0.5)  # side by side, or equal ones would hide each other
            axes.plot(
                [targets.index(row["target"]) + shift for row in own],
                [float(row["ratio"]) for row in own],
                label=method,
                **point_style(colour, marker, hollow="," in method),
            )
        axes.set_xticks(range(len(targets)), [target.replace(" ", "\n", 1) for target in targets])
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.axhline(1, color=GRID)
        axes.grid(axis="y", which="both", color=GRID)
        axes.set_ylabel("perplexity / dense perplexity")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], **save_options(path))


def main(csv: Annotated[Path, typer.Argument(help="Rows of bench.llm.")] = RESULTS / "llm.csv") -> None:
    """Write CSV.md beside the CSV, and a picture for each table."""
    rows = read_rows(csv)
    if not rows:
        raise FileFormatError(f"{csv} has no rows; run `python -m bench.llm` first")
    table, depth = ([row for row in rows if row["part"] == part] for part in ("table", "depth"))
    sections = []
    for number, (key, own) in enumerate(groups(table, "model", "text", "samples", "length", "windows").items()):
        picture = csv.with_name(f"{csv.stem}{'-' + str(number + 1) if number else ''}.svg")
        draw(own, picture)
        sections += [_title(key, own), ratios(own), f"![Perplexity over dense]({picture.name})"]
        sections.append(COSTS.format(table=costs(own)))
    if depth:
        sections.append(DEPTH.format(table=depths(depth)))
    trained = csv.with_name(f"{csv.stem}_training.csv")
    if trained.is_file():
        sections.append(training(read_rows(trained), trained.name))
    first = rows[0]
    text = TEXT.format(
        name=csv.name,
        commits=commits(rows),
        cpu=first["cpu"],
        threads=" or ".join(sorted({row["threads"] for row in rows})),
        date=first["date"][:10],
        tables="\n\n".join(sections).rstrip(),
    )
    print(markdown.write_page(csv, text))


if __name__ == "__main__":
    typer.run(main)
