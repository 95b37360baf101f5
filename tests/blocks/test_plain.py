"""What is no plain array or tensor is refused by its name, wherever it is given; nothing of another library shows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tmask

WEIGHT = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
KEPT = np.asarray(tmask.solve(WEIGHT, "2:4").mask)
GIVEN = {
    "weight": lambda odd: tmask.solve(odd, "2:4"),
    "weight of a certificate": lambda odd: tmask.certify(odd, KEPT, "2:4"),
    "weight by blocks": lambda odd: tmask.solve(odd, "2:4", "patterns"),
    "score": lambda odd: tmask.solve(WEIGHT, "2:4", score=odd),
    "mask of a certificate": lambda odd: tmask.certify(WEIGHT, odd, "2:4"),
    "mask": lambda odd: tmask.check_mask(odd, "2:4"),
}


class Masked(np.ndarray):
    """As other libraries have it: an array that says which of its entries count."""

    mask = KEPT


ODD_ARRAYS = {
    "masked": (
        lambda values: np.ma.array(values, mask=KEPT),
        r"is a MaskedArray, whose own mask would be lost; give \w+.filled",
    ),
    "masked nowhere": (np.ma.array, "is a MaskedArray"),
    "of another library": (lambda values: values.view(Masked), "is a Masked, whose own mask would be lost"),
    "list": (lambda values: values.tolist(), "is a list; give a numpy array or a torch tensor"),
    "sparse": (lambda values: pytest.importorskip("scipy.sparse").csr_array(values), "is a csr_array"),
}


def odd_tensors():
    """Name -> what makes one of a dense tensor, and what is said of it."""
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.masked import masked_tensor

    def fake(dense):
        with FakeTensorMode():
            return torch.empty(8, 8, dtype=dense.dtype)

    return {
        "nested": (lambda dense: torch.nested.nested_tensor([dense, dense[:4]]), "is a nested tensor"),
        "jagged": (
            lambda dense: torch.nested.nested_tensor([dense, dense[:4]], layout=torch.jagged),
            "is a NestedTensor, which stands for a tensor that is kept in another form",
        ),
        "lazy": (lambda dense: torch.nn.LazyLinear(8).weight, "is a UninitializedParameter, which has no shape yet"),
        "fake": (fake, "is a FakeTensor"),
        "masked": (lambda dense: masked_tensor(dense, dense != 0), "is a MaskedTensor"),
        "sparse": (lambda dense: dense.to_sparse(), "is a torch.sparse_coo tensor"),
        "rows": (lambda dense: dense.to_sparse_csr(), "is a torch.sparse_csr tensor"),
        "meta": (lambda dense: dense.to("meta"), "is a meta tensor"),
    }


@pytest.mark.parametrize("where", sorted(GIVEN))
@pytest.mark.parametrize("odd", sorted(ODD_ARRAYS))
def test_arrays(odd, where):
    make, says = ODD_ARRAYS[odd]
    values = KEPT if "mask" in where else WEIGHT
    with pytest.raises(tmask.InvalidProblemError, match=f"^{where.split()[0]} {says}"):
        GIVEN[where](make(values))


@pytest.mark.parametrize("where", sorted(GIVEN))
@pytest.mark.parametrize("odd", ["nested", "jagged", "lazy", "fake", "masked", "sparse", "rows", "meta"])
def test_tensors(odd, where):
    make, says = odd_tensors()[odd]
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls some of them prototypes
        tensor = make(torch.from_numpy(KEPT.copy() if "mask" in where else WEIGHT.copy()))
        with pytest.raises(tmask.InvalidProblemError, match=f"^{where.split()[0]} {says}"):
            GIVEN[where](tensor)


def test_inside_a_transformation_there_are_no_numbers():
    torch = pytest.importorskip("torch")
    with pytest.raises(tmask.InvalidProblemError, match=r"inside torch.func \(vmap"):
        torch.vmap(lambda weight: tmask.solve(weight, "2:4").mask)(torch.ones(2, 8, 8))


@pytest.mark.parametrize("solver", ["auto", "patterns", "midpoint-torch"])
def test_a_view_of_the_opposite_sign_is_a_tensor_like_any_other(solver):
    torch = pytest.importorskip("torch")
    weight = torch.complex(torch.zeros(8, 8), torch.from_numpy(WEIGHT.copy())).conj().imag
    assert weight.is_neg()
    assert np.array_equal(weight.resolve_neg().numpy(), -WEIGHT)
    np.testing.assert_array_equal(tmask.solve(weight, "2:4", solver).mask.numpy(), KEPT)


@pytest.mark.parametrize("groups", [1.0, True, "2", None, np.float64(1), np.True_])
def test_groups_are_a_whole_number(groups):
    for call in (
        lambda: tmask.solve(WEIGHT, "2:4", groups=groups),
        lambda: tmask.certify(WEIGHT, KEPT, "2:4", groups=groups),
        lambda: tmask.check_mask(KEPT, "2:4", groups=groups),
    ):
        with pytest.raises(tmask.InvalidProblemError, match=r"^groups is .*; give a whole number"):
            call()
    assert tmask.solve(WEIGHT, "2:4", groups=np.int64(2)).status is tmask.Status.OPTIMAL


def test_a_nested_tensor_in_a_file_is_listed_and_not_read(tmp_path):
    torch = pytest.importorskip("torch")
    from tmask.files.opening import open_weights

    torch.save({"a": torch.nested.nested_tensor([torch.ones(4, 4)]), "b": torch.ones(4, 4)}, tmp_path / "a.pt")
    file = open_weights(tmp_path / "a.pt")
    assert file.dtypes["a"] == "nested float32"
    with pytest.raises(tmask.FileFormatError, match=r"'a' cannot be read \(dtype nested float32\)"):
        file.read("a")
    assert file.read("b").values().sum() == 16
