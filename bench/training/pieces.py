"""Tables of what each piece of the recipe gives: alone, taken away, and at other learning rates."""

from __future__ import annotations

from collections.abc import Sequence

from bench import markdown
from bench.training.cells import p_value, signed, verdict
from bench.training.paired import difference
from bench.training.results import TaskResults
from bench.training.settings import CHOSEN, CHOSEN_AT, CHOSEN_ON, GROUPS, Setting

RECIPE = Setting("exact", "2:4", levers="recipe")


def pieces_table(results: TaskResults, settings: Sequence[Setting], bases: Sequence[Setting]) -> str:
    """Each setting's loss against dense and against a base; a base of the same pattern is taken."""
    by_pattern = {base.pattern: base for base in bases}
    shown = [setting for setting in settings if setting.name in results.rows]
    if all(setting in bases for setting in shown):
        return ""
    rows = []
    for setting in shown:
        loss = results.final(setting, "test_loss")
        from_dense = difference(loss, results.final(setting.reference, "test_loss"))
        base = by_pattern[setting.pattern]
        cells = [setting.name, str(len(loss)), signed(from_dense), verdict(from_dense)]
        theirs = results.final(base, "test_loss")
        if base == setting or not loss.keys() & theirs.keys():
            rows.append([*cells, "", "", ""])
            continue
        found = difference(loss, theirs)
        rows.append([*cells, signed(found), p_value(found), verdict(found)])
    header = ("setting", "seeds", "loss - dense", "within noise", f"loss - {bases[0].kind}", "p", "within noise ")
    return markdown.table(header, rows)


def alone_table(results: TaskResults) -> str:
    """Every piece alone, beside masks without any."""
    bases = [Setting("exact", pattern) for pattern in ("2:4", "4:8")]
    return pieces_table(results, [*bases, *GROUPS["alone"]], bases)


def without_table(results: TaskResults) -> str:
    """The recipe with one piece less or more, beside the whole."""
    return pieces_table(results, [RECIPE, *GROUPS["without"]], [RECIPE])


def fresh_table(results: TaskResults) -> str:
    """The recipe on later seeds than those it was chosen on, where the scale is that one."""
    rows = []
    for setting in CHOSEN[1:] if results.example["scale"] == CHOSEN_AT else ():
        ours, theirs = (
            {seed: loss for seed, loss in results.final(name, "test_loss").items() if seed >= CHOSEN_ON}
            for name in (setting.name, setting.reference)
        )
        if ours.keys() & theirs.keys():
            found = difference(ours, theirs)
            rows.append([setting.name, str(found.seeds), signed(found), p_value(found), verdict(found)])
    if not rows:
        return ""
    return markdown.table(("setting", "seeds", "loss - dense", "p", "within noise"), rows)


def rates_table(results: TaskResults) -> str:
    """Losses at other learning rates, dense and under masks."""
    rows = []
    pairs = (
        ("from scratch", Setting("none"), RECIPE),
        ("from the dense run", Setting("none", pretrained=True), Setting("exact", "2:4", pretrained=True)),
    )
    for start, dense, masked in pairs:
        for factor in sorted({setting.rate for group in GROUPS.values() for setting in group}):
            ours, theirs = (results.at_rate(setting, factor) for setting in (masked, dense))
            if not ours.keys() & theirs.keys():
                continue
            found = difference(ours, theirs)
            means = [f"{sum(losses.values()) / len(losses):.4f}" for losses in (theirs, ours)]
            rows.append([start, f"x {factor:g}", str(found.seeds), *means, signed(found), verdict(found)])
    if len(rows) <= len(pairs):
        return ""
    header = ("start", "learning rate", "seeds", "dense", "masks", "masks - dense", "within noise")
    return markdown.table(header, rows)
