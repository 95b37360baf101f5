"""The page on sparse training is run, and names what exists."""

import re
from pathlib import Path

from tmask import nn as tnn

PAGE = (Path(__file__).parents[2] / "docs/how-to/sparse-training.md").read_text()


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
