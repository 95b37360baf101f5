"""The code in the pages on other libraries and on several processes is run."""

import re
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

import tmask

DOCS = Path(__file__).parents[3] / "docs"


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def run(code):
    names = {"__name__": "page"}
    exec(code, names)
    return names


@pytest.mark.parametrize(("library", "index"), [("transformers", 0), ("lightning", 1), ("torch", 2)])
def test_integrations(library, index, tmp_path, monkeypatch):
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    names = run(blocks("how-to/integrations.md")[index])
    if library == "transformers":
        loaded = names["GPT2LMHeadModel"].from_pretrained(names["folder"])
        tmask.check_mask(loaded.transformer.h[0].mlp.c_fc.weight != 0, "2:4")
    elif library == "lightning":
        tmask.check_mask(names["plain"].net[0].weight != 0, "2:4")
    else:
        tmask.check_mask(names["mask"], "2:4")


@pytest.mark.parametrize("index", [0, 1])
def test_distributed_on_one_process(index, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        names = run(blocks("how-to/distributed.md")[index])
        model, optimizer = names.get("parallel", names["model"]), names["optimizer"]
        for _ in range(40):
            optimizer.zero_grad()
            model(torch.randn(8, 64)).square().mean().backward()
            optimizer.step()
    finally:
        dist.destroy_process_group()
    assert names["sparsifier"].metrics()["step"] == 40
