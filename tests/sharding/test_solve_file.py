"""A file solved in shards by workers is the file solved at once, whatever happens to the workers."""

import random
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tmask
from tmask.files.masks import write_masks
from tmask.sharding import solve_file as module

joblib = pytest.importorskip("joblib")

LAYERS = {f"layers.{i}.weight": (16 * (1 + i % 3), 24) for i in range(7)}


@pytest.fixture
def weights(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "model.safetensors"
    save_file({name: rng.standard_normal(shape, dtype=np.float32) for name, shape in LAYERS.items()}, path)
    return path


@pytest.fixture
def whole(weights):
    """The records of a run of one process."""
    path = tmask.solve_file(weights, "2:4", weights.parent / "whole.safetensors", "patterns")
    return tmask.read_masks(path)


def same(records, expected):
    """Masks and proofs, bit for bit; times and jobs are of the run."""
    assert records.keys() == expected.keys()
    for name, record in records.items():
        np.testing.assert_array_equal(record.packed.bits, expected[name].packed.bits)
        own, other = (
            {key: value for key, value in one.metadata().items() if key not in ("seconds", "job", "packed")}
            for one in (record, expected[name])
        )
        assert own == other


def test_one_process_does_what_solve_does(weights, whole):
    assert whole.keys() == LAYERS.keys()
    for name, weight in load_file(weights).items():
        solution = tmask.solve(weight, "2:4", "patterns")
        np.testing.assert_array_equal(whole[name].mask, solution.mask)
        assert (whole[name].objective, whole[name].dual_bound) == (solution.objective, solution.dual_bound)
    assert not [path for path in weights.parent.iterdir() if path.suffix == ".partial"]


@pytest.mark.parametrize("backend", ["threading", "loky", "sequential"])
@pytest.mark.parametrize("shards", [2, 7])
def test_shards_hold_the_masks_of_a_single_run(weights, whole, backend, shards):
    told = []
    index = tmask.solve_file(
        weights, "2:4", weights.parent / "m.safetensors", "patterns", shards=shards, backend=backend,
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    same(tmask.read_masks(index), whole)
    assert [step[:2] for step in told] == [(done, shards) for done in range(shards + 1)]


def test_a_dask_cluster_through_the_surrounding_configuration(weights, whole):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        index = tmask.solve_file(weights, "2:4", weights.parent / "m.safetensors", "patterns", shards=3)
    same(tmask.read_masks(index), whole)


def test_shards_killed_at_random_are_run_again(weights, whole):
    output = weights.parent / "m.safetensors"
    place = random.Random(0)
    for shard in ("1/3", "2/3", "3/3"):
        options = ["-p", "2:4", "-o", output, "-s", "patterns", "--shard", shard]
        command = [sys.executable, "-m", "tmask", "solve", weights, *options]
        for _ in range(2):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(place.uniform(0.2, 1.5))
            process.kill()
            process.wait()
    same(tmask.read_masks(tmask.solve_file(weights, "2:4", output, "patterns", shards=3, backend="threading")), whole)
    assert sorted(path.name for path in weights.parent.iterdir()) == [
        *(f"m-{i:05}-of-00003.safetensors" for i in (1, 2, 3)),
        "m.safetensors.index.json", "model.safetensors", "whole.safetensors",
    ]  # fmt: skip


def test_what_is_there_is_kept_and_what_failed_is_done_again(weights, monkeypatch):
    output = weights.parent / "m.safetensors"
    real = module.LayerRun.solve
    begun = []

    def failing(run, progress):
        begun.append(run)
        if len(begun) == 3:
            raise tmask.SolverFailedError("out of luck")
        real(run, progress)

    monkeypatch.setattr(module.LayerRun, "solve", failing)
    with pytest.raises(tmask.SolverFailedError, match="out of luck"):
        tmask.solve_file(weights, "2:4", output, "patterns", shards=3, backend="sequential")
    assert not output.with_name("m.safetensors.index.json").exists()
    before = {path: path.stat().st_mtime_ns for path in weights.parent.glob("m-*.safetensors")}
    assert len(before) == 2
    index = tmask.solve_file(weights, "2:4", output, "patterns", shards=3, backend="sequential")
    assert tmask.read_masks(index).keys() == LAYERS.keys()
    assert len(begun) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_wrong_proof_is_no_part_of_an_index(weights):
    output = weights.parent / "m.safetensors"
    index = tmask.solve_file(weights, "2:4", output, "patterns", shards=2, backend="threading")
    index.unlink()
    shard = next(weights.parent.glob("m-*.safetensors"))
    records = tmask.read_masks(shard)
    write_masks(shard, [replace(record, objective=record.objective * 2) for record in records.values()], True)
    with pytest.raises(tmask.InvalidMaskError, match=rf"{shard.name}: layers\.\d\.weight: its objective"):
        tmask.solve_file(weights, "2:4", output, "patterns", shards=2, backend="threading")
    assert not index.exists()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"shards": 99}, tmask.InvalidProblemError, "99 shards for 52 rows of tiles"),
        ({"shards": 2, "backend": "nobody"}, tmask.InvalidProblemError, "backend 'nobody' is none of joblib's"),
        ({"include": ["x*"]}, tmask.InvalidProblemError, "matches no"),
        ({"solver": "nobody"}, tmask.UnknownSolverError, "nobody"),
    ],
)
def test_bad_arguments_are_told_before_any_work(weights, arguments, error, says):
    with pytest.raises(error, match=says):
        tmask.solve_file(weights, "2:4", weights.parent / "m.safetensors", **arguments)
    assert [path.name for path in weights.parent.iterdir()] == ["model.safetensors"]


def test_outputs_that_are_there_stay(weights, whole):
    with pytest.raises(tmask.OutputError, match="exists"):
        tmask.solve_file(weights, "2:4", weights.parent / "whole.safetensors", "patterns")


def test_without_joblib_the_cure_is_named(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(tmask.SolverUnavailableError, match=r"tmask\[joblib\]"):
        tmask.solve_file(weights, "2:4", weights.parent / "m.safetensors", "patterns", shards=2)


def test_relative_paths_are_those_of_the_caller(weights, whole, monkeypatch):
    joblib.Parallel(2, backend="loky")(joblib.delayed(abs)(number) for number in range(4))  # workers that are kept
    monkeypatch.chdir(weights.parent)
    same(
        tmask.read_masks(tmask.solve_file(weights.name, "2:4", "m.safetensors", "patterns", shards=2, backend="loky")),
        whole,
    )
