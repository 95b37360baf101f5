"""The pages on sparse training are run, and name what exists."""

import re
from pathlib import Path

from tmask import nn as tnn

HOW_TO = Path(__file__).parents[2] / "docs/how-to"
PAGE = (HOW_TO / "sparse-training.md").read_text()
RECIPE = (HOW_TO / "training-recipe.md").read_text()


def test_its_code_runs():
    training, graphs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(training, names)
    assert names["sparsifier"].metrics()["step"] == 80
    assert all((layer.weight != 0).float().mean() == 0.5 for layer in (names["model"][0], names["model"][2]))
    exec(graphs, names)  # on a CPU a step as it is


def test_schedules_have_the_settings_that_it_lists():
    for setting in re.findall(r"`Periodic\((\w+)=", PAGE):
        assert hasattr(tnn.Periodic(), setting)


def test_the_code_on_the_recipe_runs(capsys):
    names = {}
    for code in re.findall(r"```python\n(.*?)```", RECIPE, re.DOTALL):
        exec(code, names)
    assert names["sparsifier"].metrics()["step"] == 360
    assert (names["model"][0].weight != 0).float().mean() <= 0.5  # a kept weight may shrink to 0
    rate, _ = capsys.readouterr().out.split()
    assert float(rate) in names["choice"].ratios


def test_the_recipe_is_as_its_page_says():
    for end, phases in (("sparse", (25, 50, None)), ("dense", (10, 25, 60))):
        recipe = tnn.transposable_recipe(4000, end=end)
        schedule = recipe.schedule
        steps = [schedule.begin, schedule.begin + schedule.ramp, schedule.dense_from]
        assert tuple(None if step is None else step // 40 for step in steps) == phases
        assert f"{recipe.share_at_target:.0%}".replace("%", " %") in RECIPE
        assert f"**Hysteresis** {recipe.hysteresis}." in RECIPE
        assert f"**Smoothing** {recipe.smoothing}." in RECIPE
