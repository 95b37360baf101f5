import numpy as np

import tmask
from tmask.comparison.builtin import builtin_weights
from tmask.files.layers import select_layers
from tmask.files.opening import open_weights


def test_the_built_in_weights_are_small_and_trained():
    path = builtin_weights()
    assert path.stat().st_size < 300_000
    file = open_weights(path)
    layers = select_layers(file).layers
    assert {len(layer.shape) for layer in layers} == {2, 4}
    for layer in layers:
        values = file.read(layer.name).values()
        assert np.isfinite(values).all()
        assert tmask.solve(values, "2:4").optimality_gap == 0
