"""Reports of training and pruning are short as one line, and tables where one looks."""

import torch
from torch import nn

from tmask.nn import adaprune, sparsify


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def test_a_report_of_pruning():
    report = adaprune(model(), [torch.randn(64, 16)], "2:4")
    assert len(repr(report)) < 120
    assert [line.split()[0] for line in str(report).splitlines()[5:8]] == ["layer", "0.weight", "2.weight"]
    page = report._repr_html_()
    assert page.count("<tr>") == 2 + 3
    assert "<svg" in page
    assert len(report.plot().axes[0].lines) == 2


def test_a_sparsifier():
    network = model()
    sparsifier = sparsify(network, "2:4")
    assert repr(sparsifier) == "<Sparsifier: 3 weights under masks, 0 skipped, Frozen(gradient='masked'), step 0>"
    page = sparsifier._repr_html_()
    assert "0.weight" in page
    assert "<svg" in page
    assert "3 of 3 weights masked" in sparsifier.report()._repr_html_()
