"""cuSPARSELt's algorithm for a product: searched once, believed after a comparison, kept on disk."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from tests.nn.linears import masked_linear
from tmask.nn.packing import algorithms, attaching, remembered
from tmask.nn.packing.algorithms import SparseProduct, algorithm, default_alone

CPU = torch.device("cpu")
PRODUCT = SparseProduct(64, 128, 64, torch.bfloat16, True, False)


@pytest.fixture
def searches(emulated_cusparselt, monkeypatch, tmp_path):
    """The products that were searched for; algorithm 3 is the fastest."""
    monkeypatch.setattr(algorithms, "_DEVICES", ("cpu",))
    monkeypatch.setattr(algorithms, "_LEAST", 16)
    monkeypatch.setattr(algorithms, "_chosen", {})
    monkeypatch.setattr(remembered, "DEVICES", ("cpu",))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    calls = []
    real = torch._cslt_sparse_mm_search

    def noted(compressed, dense, **options):
        calls.append(dense.shape[1])
        return real(compressed, dense, **options)

    monkeypatch.setattr(torch, "_cslt_sparse_mm_search", noted)
    return calls


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_searched_once_in_a_process_and_never_again_with_the_file(searches, monkeypatch, dtype, bias):
    product = SparseProduct(64, 2048, 64, dtype, dtype == torch.bfloat16, bias)
    assert [algorithm(product, CPU) for _ in range(3)] == [3, 3, 3]
    monkeypatch.setattr(algorithms, "_chosen", {})
    assert algorithm(product, CPU) == 3
    assert searches == [64]


def test_one_wrong_number_and_the_default_is_taken(searches, monkeypatch, caplog):
    real = torch._cslt_sparse_mm

    def wrong(*args, alg_id=0, **options):
        result = real(*args, alg_id=alg_id, **options)
        if alg_id == 3:
            result[-1, -1] += 1
        return result

    monkeypatch.setattr(torch, "_cslt_sparse_mm", wrong)
    with caplog.at_level(logging.WARNING, "tmask"):
        assert algorithm(PRODUCT, CPU) == 0
    assert "algorithm 3 multiplies wrong for 64x128, 64 tokens" in caplog.text
    monkeypatch.setattr(algorithms, "_chosen", {})
    assert algorithm(PRODUCT, CPU) == 0
    assert searches == [64]


def test_a_search_that_fails_costs_nothing_but_is_not_kept(searches, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "_cslt_sparse_mm_search", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no")))
        assert algorithm(PRODUCT, CPU) == 0
    monkeypatch.setattr(algorithms, "_chosen", {})
    assert algorithm(PRODUCT, CPU) == 3


def test_a_torch_without_the_search_takes_the_default(searches, monkeypatch, caplog):
    """torch calls the function deprecated."""
    monkeypatch.delattr(torch, "_cslt_sparse_mm_search")
    with caplog.at_level(logging.WARNING, "tmask"):
        assert algorithm(PRODUCT, CPU) == 0
    assert "no algorithm was searched for 64x128, 64 tokens" in caplog.text


@pytest.mark.parametrize("damaged", [True, -1, 2.0, "3", None])
def test_a_number_that_is_none_is_searched_for_again(searches, tmp_path, damaged):
    algorithm(PRODUCT, CPU)
    file = tmp_path / "tmask-measured.json"
    file.write_text(json.dumps({key: damaged for key in json.loads(file.read_text())}))
    algorithms._chosen.clear()
    assert algorithm(PRODUCT, CPU) == 3
    assert searches == [64, 64]


def test_few_tokens_many_counts_and_trials_are_not_searched_for(searches):
    assert algorithm(SparseProduct(64, 128, 8, torch.bfloat16, True, False), CPU) == 0
    with default_alone():
        assert algorithm(PRODUCT, CPU) == 0
    for count in range(16, 96, 8):
        algorithm(SparseProduct(64, 128, count, torch.bfloat16, True, False), CPU)
    assert searches == [16, 24, 32, 40]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_multiplies_by_the_chosen_one(searches, monkeypatch, dtype):
    layer = masked_linear(dtype=dtype)
    attaching.attach(layer)
    assert searches == []  # verification multiplies by no layer's sizes
    used = []
    real = torch._cslt_sparse_mm
    monkeypatch.setattr(torch, "_cslt_sparse_mm", lambda *a, **k: (used.append(k["alg_id"]), real(*a, **k))[1])
    layer(torch.randn(32, 128).to(dtype).requires_grad_()).sum().backward()
    assert searches == [32, 32]
    assert used.count(3) == 4  # of the search's own check, and of the layer, in each direction


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"other": 1}'])
def test_a_damaged_file_costs_time_alone(searches, tmp_path, content):
    (tmp_path / "tmask-measured.json").write_text(content)
    assert algorithm(PRODUCT, CPU) == 3
    algorithms._chosen.clear()
    assert algorithm(PRODUCT, CPU) == 3
    assert searches == [64]
    assert [path.name for path in tmp_path.iterdir()] == ["tmask-measured.json"]


def test_a_folder_that_cannot_be_written_is_told_once(searches, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "tmask"):
        for _ in range(2):
            algorithms._chosen.clear()
            assert algorithm(PRODUCT, CPU) == 3
    assert caplog.text.count("measurements cannot be kept") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_with_cusparselt(dtype, monkeypatch, tmp_path):
    from tmask.nn.packing.routes import ROUTES

    device = torch.device("cuda", 0)
    if problem := ROUTES["cusparselt"].problem(device):
        pytest.skip(problem)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert algorithm(SparseProduct(1024, 2048, 4096, dtype, dtype == torch.bfloat16, True), device) >= 0
    assert (tmp_path / "tmask-measured.json").exists()
