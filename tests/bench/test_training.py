"""The training benchmark: every setting on built-in data, going on after an interrupt, plain masks, the report."""

from __future__ import annotations

import csv
import dataclasses
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from scipy import stats

from bench.training import loop, pieces, renewals
from bench.training import run as runner
from bench.training.data import load_images, load_text
from bench.training.loop import build, optimizer_for, rate_factor
from bench.training.masks import plain_mask, put_masks
from bench.training.paired import difference, judge
from bench.training.report import main as report
from bench.training.run import main
from bench.training.settings import CHOSEN, GROUPS, MAIN, SCALES, SETTINGS, Setting, recipe, sizes_of
from tests.bench.pages import unpadded
from tmask import check_mask
from tmask.blocks.pattern import Pattern
from tmask.errors import FileFormatError, InvalidProblemError
from tmask.nn import transposable_recipe
from tmask.nn.layers import finding

CPU = torch.device("cpu")
MEASURED = ("step_seconds", "renewal_seconds", "date")  # what no two runs share


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def settled(path):
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows_of(path)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("training") / "training.csv"
    main(scale="tiny", seeds=2, out=out)
    return out


def decays(name):
    (setting,) = [setting for setting in SETTINGS if setting.name == name]
    return setting.combination.decay != "none"


def test_every_setting_trains_with_every_seed_on_both_tasks(finished):
    rows = rows_of(finished)
    runs = {(row["task"], row["setting"], row["seed"]) for row in rows}
    assert runs == {(t, s.name, seed) for t in ("vision", "language") for s in SETTINGS if s.suits(t) for seed in "01"}
    assert {row["data"] for row in rows} == {"digits", "pydoc_data.topics"}
    assert {row["step"] for row in rows} == {"4", "8"}
    assert {"commit", "device", "cpu", "threads", "torch", "date", "sizes"} <= set(rows[0])
    assert all(row["test_loss"] for row in rows if row["step"] == "8")
    plain = {s.name for s in MAIN if not s.levers}
    losses = [row["test_loss"] for row in rows if row["step"] == "8" and row["setting"] in plain]
    assert len(set(losses)) == len(losses)  # no two runs are the same one
    for row in rows:
        if row["setting"] in plain:
            renewed = row["masks"] != "none" and row["pretrained"] != "True" and row["step"] == "4"
            assert bool(row["flip_rate"]) == (renewed or row["setting"] == "dense")
        assert bool(row["found_decay"]) == (row["masks"] != "none" and decays(row["setting"]))
        if row["gap"] and not row["levers"]:
            assert float(row["gap"]) <= 1e-9 if row["masks"] == "exact" else 0 < float(row["gap"]) < 0.2


def test_an_interrupted_benchmark_goes_on_and_ends_with_the_same_rows(finished, tmp_path, monkeypatch):
    out = tmp_path / "training.csv"
    train, begun = runner.run, []

    def interrupted(size, data, setting, *args):
        begun.append(setting)
        if setting.name == "greedy 4:8":
            raise KeyboardInterrupt
        return train(size, data, setting, *args)

    monkeypatch.setattr(runner, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(task="vision", scale="tiny", seeds=1, groups="main", out=out)
    before = rows_of(out)
    assert len(begun) == 7
    assert len(before) == 12
    monkeypatch.setattr(runner, "run", train)
    main(task="vision", scale="tiny", seeds=1, out=out)
    for file in out.with_suffix(".pretrained").glob("vision-*"):
        file.unlink()  # dense runs are repeated where their weights are gone
    main(task="vision", scale="tiny", seeds=2, out=out)
    assert rows_of(out)[:12] == before
    assert settled(out) == [row for row in settled(finished) if row["task"] == "vision"]


def test_rows_of_another_recipe_are_not_mixed(finished):
    with pytest.raises(InvalidProblemError, match=r"holds vision rows of another recipe .* give --out another file"):
        main(task="vision", scale="small", seeds=1, out=finished)


def test_tables_and_plots(finished):
    report(finished)
    text = unpadded(finished.with_suffix(".md").read_text())
    for heading in ("## Vision: digits", "## Language: pydoc_data.topics"):
        assert heading in text
    table = text[text.index("## Vision") : text.index("## Language")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[7:29]] == [
        s.name for s in MAIN if s.suits("vision")
    ]
    for heading in ("Alone, beside masks", "Taken away from the recipe", "### At other learning rates"):
        assert heading in table
    assert "On seeds that chose nothing" not in text  # which is of the scale that the recipe was chosen at
    ours, theirs = (
        {
            r["seed"]: float(r["test_loss"])
            for r in rows_of(finished)
            if r["task"] == "vision" and r["setting"] == name and r["step"] == "8"
        }
        for name in ("frozen 4:8", "dense again")
    )
    mean = np.mean([ours[seed] - theirs[seed] for seed in "01"])
    assert f"| {mean:+.4f} (± " in next(line for line in table.splitlines() if line.startswith("| frozen 4:8"))
    for stem in ("curves", "flips", "differences", "pieces"):
        for suffix in (".png", ".svg"):
            assert finished.with_name(f"training_{stem}{suffix}").stat().st_size > 5000


def test_the_price_of_renewals_is_a_row_each_and_a_table(finished, tmp_path):
    out = tmp_path / "training_renewals.csv"
    renewals.main(task="language", scale="tiny", repeats=3, out=out)
    rows = rows_of(out)
    assert [row["setting"] for row in rows] == [
        s.name for s in MAIN if s.masks != "none" and not s.pretrained and not s.levers
    ]
    for row in rows:
        step, renewing, alone = (float(row[f"{what}_seconds"]) for what in ("step", "renewing", "renewal"))
        assert alone == pytest.approx(renewing - step)
        assert float(row["share_every_40"]) == pytest.approx(alone / (alone + 40 * step))
    (tmp_path / "training.csv").write_bytes(finished.read_bytes())
    report(tmp_path / "training.csv")
    vision, language = unpadded((tmp_path / "training.md").read_text()).split("## Language")
    assert "What renewals cost" not in vision
    share = f"{100 * float(rows[0]['share_every_1']):.2g}"
    assert f"| {share} |" in next(
        line
        for line in language.splitlines()
        if "ms" not in line and line.startswith("| plain 2:4") and line.count("|") == 6
    )


def test_renewing_at_every_step_is_what_is_timed(monkeypatch):
    """One copy of the network renews at each step, the other never after the first masks."""
    seen = []
    put = renewals.put_masks

    def counting(model, setting, optimizer, decay, every, last, on_renewal):
        count = []
        seen.append(count)
        return put(model, setting, optimizer, decay, every, last, count.append)

    monkeypatch.setattr(renewals, "put_masks", counting)
    size, data = SCALES["tiny"]["vision"], load_images(None, 8)
    renewals.measure(size, data, Setting("exact", "2:4"), CPU, repeats=2)
    assert [len(count) for count in seen] == [1, 6]  # with three steps to warm up


def test_a_report_says_nothing_of_what_was_not_run(finished, tmp_path):
    chosen = {setting.name for setting in CHOSEN}
    out = tmp_path / "chosen.csv"
    rows = [row for row in rows_of(finished) if row["setting"] in chosen]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    report(out)
    headings = [line for line in out.with_suffix(".md").read_text().splitlines() if line.startswith("#")]
    assert headings == [
        "# Training under masks",
        "## Vision: digits",
        "### Masks",
        "## Language: pydoc_data.topics",
        "### Masks",
    ]
    assert out.with_name("chosen_differences.png").exists()
    assert not out.with_name("chosen_pieces.png").exists()


def test_autocast_multiplies_in_bfloat16_and_keeps_weights_and_losses_in_float32():
    size = dataclasses.replace(SCALES["tiny"]["language"], autocast=True)
    data = load_text(None, size.context)
    model = build(size, data, 0)
    inputs, targets = next(data.batches(0, 4, 1))
    products = []
    model.layers[0].up.register_forward_hook(lambda module, args, output: products.append(output.dtype))
    loss = loop.loss_of(model(inputs), targets)
    loss.backward()
    assert products == [torch.bfloat16]
    assert loss.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_a_switch_that_is_off_leaves_the_name_of_a_recipe():
    """Rows of before there was one stay comparable."""
    assert recipe("language", "small", "tinyshakespeare.txt") == "31b15653"  # as in bench/results/training.csv
    assert sizes_of(SCALES["medium"]["language"])["autocast"] == 1


def test_a_report_of_one_seed_claims_nothing(finished, tmp_path):
    rows = [row for row in rows_of(finished) if row["seed"] == "0" and row["task"] == "vision"]
    out = tmp_path / "one.csv"
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    report(out)
    text = out.with_suffix(".md").read_text()
    assert "one seed: cannot say" in text
    assert "worse" not in text
    assert "±" not in text


def test_a_file_that_holds_no_rows_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match=r"run `python -m bench.training.run` first"):
        report(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("task,speed\nvision,3\n")
    with pytest.raises(FileFormatError, match=r"not rows of bench\.training\.run"):
        report(tmp_path / "other.csv")


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.sampled_from([(1, 4), (2, 4), (4, 8)]), st.integers(0)
)
def test_plain_masks_keep_the_largest_of_every_group(outputs, groups, kernel_axes, pattern, seed):
    n, m = pattern
    score = torch.tensor(np.random.default_rng(seed).random((outputs, groups * m, *(2,) * kernel_axes)))
    mask = plain_mask(score, Pattern(n, m))
    assert mask.shape == score.shape
    for position in np.ndindex(outputs, groups, *(2,) * kernel_axes):
        place = (position[0], slice(position[1] * m, (position[1] + 1) * m), *position[2:])
        assert mask[place].sum() == n
        assert score[place][mask[place]].min() >= score[place][~mask[place]].max()


def test_a_pattern_that_does_not_divide_the_inputs_is_refused():
    with pytest.raises(InvalidProblemError, match="2:4 does not divide an input axis of 6"):
        plain_mask(torch.ones(4, 6), Pattern(2, 4))


@pytest.mark.parametrize("task", ["vision", "language"])
@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.masks != "none"], ids=lambda s: s.name)
def test_masks_are_what_the_setting_says_and_leave_the_classifier_dense(task, setting):
    size = SCALES["tiny"][task]
    data = runner.load(task, "tiny", None, None)
    model = build(size, data, 0)
    optimizer, decay = optimizer_for(model, size)
    if not setting.suits(task):
        pytest.skip("for the layers of transformers")
    sparsifier = put_masks(model, setting, optimizer, decay, 4, 8, lambda renewal: None)
    names = {layer.name for layer in sparsifier.layers}
    matrices = {
        name.replace("parametrizations.weight.original", "weight")
        for name, p in model.named_parameters()
        if p.ndim >= 2
    }
    if setting.combination.feed_forward:
        assert names == {f"layers.0.{name}.weight" for name in ("up", "down")}
        return
    matrices = {name for name in matrices if "low_rank" not in name}
    assert (
        matrices - names
        == {"vision": {"stem.weight", "head.weight"}, "language": {"tokens.weight", "positions.weight", "head.weight"}}[
            task
        ]
    )
    for layer in sparsifier.layers:
        mask = layer.masked.mask
        if setting.combination.begin or setting.combination.ramp:
            continue  # dense at first
        if setting.masks == "plain":
            assert torch.equal(mask, plain_mask(layer.weight.detach().abs(), layer.pattern))
        else:
            check_mask(mask, setting.pattern)  # full in every row and column, the greedy's too
        frozen = setting.pretrained and not setting.levers
        assert layer.masked.gradient == ("masked" if frozen else setting.combination.gradient)
        assert layer.masked.smoothing == setting.combination.smoothing
    assert (sparsifier._decay is None) == (setting.pretrained and not setting.levers)


def test_plain_masks_are_found_one_by_one_where_layers_are_solved_together(monkeypatch):
    """As on a GPU, where all layers would else get transposable masks."""
    monkeypatch.setattr(finding, "go_together", lambda requests: True)
    size = SCALES["tiny"]["language"]
    model = build(size, runner.load("language", "tiny", None, None), 0)
    sparsifier = put_masks(model, Setting("plain", "2:4"), *optimizer_for(model, size), 4, 8, lambda renewal: None)
    for layer in sparsifier.layers:
        assert torch.equal(layer.masked.mask, plain_mask(layer.weight.detach().abs(), layer.pattern))


def test_settings_have_names_of_their_own():
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS) == sum(map(len, GROUPS.values()))
    assert {setting.reference for setting in SETTINGS} <= {setting.name for setting in SETTINGS}


def test_the_recipe_of_the_benchmark_is_the_one_that_is_shipped():
    for end in ("sparse", "dense"):
        shipped = transposable_recipe(560, end=end)
        levers = Setting("exact", "2:4", levers="recipe" + (", dense end" if end == "dense" else "")).combination
        assert levers.schedule(560, 40) == shipped.schedule
        assert (levers.hysteresis, levers.smoothing, levers.decay) == (shipped.hysteresis, shipped.smoothing, "none")


def test_later_seeds_are_told_apart(finished, tmp_path, monkeypatch):
    out = tmp_path / "training.csv"
    out.write_bytes(finished.read_bytes())
    main(task="vision", groups="chosen", scale="tiny", seeds=2, first=5, out=out)
    new = rows_of(out)[len(rows_of(finished)) :]
    assert {row["seed"] for row in new} == {"5", "6"}
    assert {row["setting"] for row in new} == {setting.name for setting in CHOSEN if setting.suits("vision")}
    monkeypatch.setattr(pieces, "CHOSEN_AT", "tiny")
    report(out)
    text = unpadded(out.with_suffix(".md").read_text())
    part = text[text.index("On seeds that chose nothing") :]
    line = next(line for line in part.splitlines() if line.startswith("| recipe 2:4 |"))
    ours, theirs = (
        {row["seed"]: float(row["test_loss"]) for row in new if row["setting"] == name and row["step"] == "8"}
        for name in ("recipe 2:4", "dense")
    )
    assert line.startswith(f"| recipe 2:4 | 2 | {np.mean([ours[seed] - theirs[seed] for seed in '56']):+.4f} (± ")


def test_a_group_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InvalidProblemError, match="no group 'all'; there are: main, alone, without, rates"):
        main(groups="all", out=tmp_path / "training.csv")


def test_seeds_pair_runs(monkeypatch):
    """The same first weights and batches in every setting; a network that is trained again sees other batches."""
    size, data = SCALES["tiny"]["vision"], load_images(None, 8)
    seen = []
    draw = data.batches
    monkeypatch.setattr(data, "batches", lambda seed, *rest: seen.append(seed) or draw(seed, *rest))
    state = loop.run(size, data, Setting("none"), 1, CPU, 4).state
    loop.run(size, data, Setting("exact", "2:4"), 1, CPU, 4)
    loop.run(size, data, Setting("none", pretrained=True), 1, CPU, 4, state)
    loop.run(size, data, Setting("none"), 2, CPU, 4)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3
    first, again, other = (build(size, data, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(first["stem.weight"], again["stem.weight"])
    assert not torch.equal(first["stem.weight"], other["stem.weight"])


def test_the_learning_rate_rises_and_falls_to_zero():
    factors = [rate_factor(step, 100) for step in range(101)]
    assert factors[4] == max(factors) == 1
    assert factors[0] == pytest.approx(0.2)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert factors[5:] == sorted(factors[5:], reverse=True)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.lists(st.floats(-10, 10), min_size=6, max_size=6))
def test_the_paired_test_is_scipys(ours, theirs):
    theirs = theirs[: len(ours)]
    differences = np.subtract(ours, theirs)
    if np.std(differences) < 1e-6:
        return
    found = difference(dict(enumerate(ours)), dict(enumerate(theirs)))
    reference = stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-6)
    interval = reference.confidence_interval(0.95)
    assert found.mean - found.half_width == pytest.approx(interval.low, rel=1e-6, abs=1e-9)
    assert found.within_noise == (interval.low <= 0 <= interval.high)


def test_seeds_without_a_partner_are_left_out():
    found = difference({0: 1.0, 1: 2.0, 5: 90.0}, {0: 0.5, 1: 1.0, 7: 90.0})
    assert (found.seeds, found.mean) == (2, 0.75)
    assert judge([0.0, 0.0]).within_noise
    assert not judge([0.5, 0.5]).within_noise
    alone = judge([0.3])
    assert math.isinf(alone.half_width)
    assert math.isnan(alone.p)


def test_files_of_the_users_own(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{part}_x": rng.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8) for part in ("train", "test")}
    arrays |= {f"{part}_y": np.arange(20, dtype=np.uint8) % 5 for part in ("train", "test")}
    np.savez(tmp_path / "photos.npz", **arrays)
    images = load_images(tmp_path / "photos.npz", 8)
    assert (images.name, images.classes, images.train[0].shape) == ("photos.npz", 5, (20, 3, 8, 8))
    whole = load_images(tmp_path / "photos.npz", 16).train[0]
    assert whole.mean((0, 2, 3)).abs().max() < 1e-5
    assert (whole.std((0, 2, 3)) - 1).abs().max() < 1e-2
    assert torch.allclose(images.train[0][3, 1, 2, 4], whole[3, 1, 4:6, 8:10].mean())

    (tmp_path / "own.txt").write_text("abcd" * 200)
    text = load_text(tmp_path / "own.txt", 16)
    assert (text.name, text.classes, len(text.train), len(text.test)) == ("own.txt", 4, 720, 80)
    assert text.trivial_loss() == pytest.approx(math.log(4))
    for windows, targets in [*text.batches(0, 3, 2), *text.held_out()]:
        assert torch.equal(windows[:, 1:], targets[:, :-1])
        assert torch.equal((windows + 1) % 4, targets)


def test_each_epoch_shows_every_image_once():
    data = load_images(None, 8)
    count = len(data.train[0])
    data.train = data.train[0], torch.arange(count)  # so that a label says which image it is
    labels = torch.cat([targets for _, targets in data.batches(0, 64, 2 * (count // 64))])
    for epoch in labels.chunk(2):
        assert len(epoch.unique()) == len(epoch) == count // 64 * 64
    assert not torch.equal(*labels.chunk(2))


def test_files_and_options_that_cannot_be_used(tmp_path):
    (tmp_path / "text.npz").write_text("no arrays")
    np.savez(tmp_path / "floats.npz", **{f"{p}_{a}": np.zeros((4, 8, 8, 3)) for p in ("train", "test") for a in "xy"})
    np.savez(tmp_path / "lacks.npz", train_x=np.zeros(3))
    for name, problem in (("none", "none.npz"), ("text", "not an .npz"), ("floats", "float64"), ("lacks", "train_y")):
        with pytest.raises(FileFormatError, match=problem):
            load_images(tmp_path / f"{name}.npz", 8)
    with pytest.raises(FileFormatError, match=r"none.txt: not a UTF-8 text file"):
        load_text(tmp_path / "none.txt", 16)
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(FileFormatError, match="5 characters, too few for windows of 16"):
        load_text(tmp_path / "short.txt", 16)
    with pytest.raises(FileFormatError, match="fewer than a batch of 5000"):
        next(load_images(None, 8).batches(0, 5000, 1))
    out = tmp_path / "training.csv"
    with pytest.raises(InvalidProblemError, match="no task 'sound'; there are: vision, language"):
        main(task="sound", out=out)
    with pytest.raises(InvalidProblemError, match="no scale 'huge'; there are: tiny, small, medium, full"):
        main(scale="huge", out=out)
    if not torch.cuda.is_available():
        with pytest.raises(InvalidProblemError, match="no CUDA device here"):
            main(device="cuda", out=out)
