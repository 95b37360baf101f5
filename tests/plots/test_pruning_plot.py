"""The picture of a pruned language model."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")

from tmask.errors import InvalidProblemError, OutputError
from tmask.plots.matrix_names import block_of
from tmask.plots.pruning import draw_pruning, error_lines


def report(blocks=3, error=0.01):
    names = [f"model.layers.{k}.{part}.weight" for k in range(blocks) for part in ("attn.q", "mlp.down")]
    return {
        "matrices": [{"name": name, "error": error * (index + 1)} for index, name in enumerate(names)],
        "blocks": [{"name": f"model.layers.{k}", "error": 0.1 + k} for k in range(blocks)],
    }


def test_a_line_for_each_kind_by_block():
    assert error_lines(report(2, error=1.0)["matrices"]) == {
        "attn.q": {0: 1.0, 1: 3.0},
        "mlp.down": {0: 2.0, 1: 4.0},
    }


def test_experts_of_a_block_are_one_point():
    rows = [{"name": f"l.0.experts.up[{k}]", "error": error} for k, error in enumerate((1.0, 3.0, None))]
    assert error_lines(rows) == {"experts.up[*]": {0: 2.0}}


@pytest.mark.parametrize(("name", "block"), [("a.12.b", 12), ("0.weight", 0), ("model.layers.7.", 7), ("head.w", -1)])
def test_blocks_of_names(name, block):
    assert block_of(name) == block


def test_the_figure_says_what_it_shows(tmp_path):
    text = draw_pruning(report(), tmp_path / "report.svg", title="of a test").read_text()
    for word in ("attn.q", "mlp.down", "hidden states behind", "of a test"):
        assert f"<!-- {word} -->" in text
    first = (tmp_path / "report.svg").read_bytes()
    assert draw_pruning(report(), tmp_path / "other.svg", title="of a test").read_bytes() == first
    draw_pruning(report(error=0.0) | {"blocks": []}, tmp_path / "zeros.png")  # no place on a logarithm


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(InvalidProblemError, match="nothing to draw"):
        draw_pruning({"matrices": []}, tmp_path / "a.svg")
    with pytest.raises(OutputError, match="must end in"):
        draw_pruning(report(), tmp_path / "a.jpg")
