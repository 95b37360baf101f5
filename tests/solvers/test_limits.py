"""Limits and failures of the backends: a limit is a status, a failure names solver, blocks and backend status."""

import os

import networkx
import numpy as np
import pulp
import pytest
from ortools.graph.python import min_cost_flow
from ortools.sat.python import cp_model

import tmask
from tests.strategies import make_blocks
from tmask.judging.certificate import judge
from tmask.judging.duals import is_regular


@pytest.mark.parametrize("name", ["pulp-cbc", "pulp-highs", "ortools-cpsat"])
def test_a_time_limit_is_a_status_and_leaves_a_regular_mask(name):
    scores = make_blocks("normal", 2, 32)
    answer = tmask.get_solver(name, time_limit=1e-4).solve(scores, 16)
    assert answer.limit_reached
    assert is_regular(answer.masks, 16).all()


@pytest.mark.parametrize("name", ["pulp-cbc", "pulp-highs"])
def test_a_time_limit_that_is_not_reached_changes_nothing(name):
    scores = make_blocks("normal", 2, 4)
    answer = tmask.get_solver(name, time_limit=60.0).solve(scores, 2)
    assert not answer.limit_reached
    np.testing.assert_array_equal(answer.masks, tmask.get_solver(name).solve(scores, 2).masks)


@pytest.mark.parametrize("name", ["pulp-cbc", "pulp-highs"])
@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_pulp_leaves_no_files_and_uses_nothing_deprecated(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(variable, str(tmp_path))
    tmask.get_solver(name).solve(make_blocks("normal", 2, 4), 2)
    assert os.listdir(tmp_path) == []


def test_a_failed_flow_names_solver_blocks_and_status(monkeypatch):
    monkeypatch.setattr(min_cost_flow.SimpleMinCostFlow, "solve", lambda self: self.INFEASIBLE)
    with pytest.raises(tmask.SolverFailedError, match=r"'ortools-flow', blocks 0 to 2: .*INFEASIBLE"):
        tmask.get_solver("ortools-flow").solve(make_blocks("normal", 3, 4), 2)


def test_a_failed_network_simplex_names_solver_block_and_cause(monkeypatch):
    def fail(graph):
        raise networkx.NetworkXUnfeasible("no flow")

    monkeypatch.setattr(networkx, "network_simplex", fail)
    with pytest.raises(tmask.SolverFailedError, match="'networkx-simplex', block 0: no flow"):
        tmask.get_solver("networkx-simplex").solve(make_blocks("normal", 1, 4), 2)


def test_a_failed_search_of_cpsat_names_solver_block_and_status(monkeypatch):
    monkeypatch.setattr(cp_model.CpSolver, "solve", lambda self, model: cp_model.MODEL_INVALID)
    with pytest.raises(tmask.SolverFailedError, match="'ortools-cpsat', block 0: MODEL_INVALID"):
        tmask.get_solver("ortools-cpsat").solve(make_blocks("normal", 1, 4), 2)


def test_a_failed_milp_names_solver_blocks_and_cause(monkeypatch):
    def fail(self, solver):
        raise pulp.PulpSolverError("no binary")

    monkeypatch.setattr(pulp.LpProblem, "solve", fail)
    with pytest.raises(tmask.SolverFailedError, match="'pulp-highs', blocks 0 to 1: no binary"):
        tmask.get_solver("pulp-highs").solve(make_blocks("normal", 2, 4), 2)


@pytest.mark.parametrize("together", [True, False])
def test_pdlp_solves_blocks_of_zeros_and_the_smallest_numbers(together):
    normal = make_blocks("normal", 1, 4).astype(np.float64)
    scores = np.concatenate([normal, 0 * normal, np.round(9 * normal) * 2.0**-1074, 1e305 * normal])
    answer = tmask.get_solver("ortools-pdlp", blocks_per_model=4 if together else 1).solve(scores, 2)
    assert is_regular(answer.masks, 2).all()
    assert judge(scores, answer.masks, 2, prices=answer.prices).proven.all()


def test_pdlp_is_silent_on_a_wide_range(capfd):
    scores = np.exp(8 * np.random.default_rng(5).standard_normal((5, 8, 8)))
    scores[:, 0, 0] = 1e-40
    tmask.get_solver("ortools-pdlp").solve(scores, 4)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_entropic_takes_subnormals_and_its_dtype(dtype):
    # Integers, so that scaling them loses nothing.
    scores = np.round(make_blocks("normal", 20, 8).astype(np.float64) * 1e4)
    solver = tmask.get_solver("entropic", dtype=dtype)
    tiny = solver.solve(scores * 2.0**-1074, 4).masks
    np.testing.assert_array_equal(tiny, solver.solve(scores, 4).masks)


def test_entropic_bounds_the_memory_of_its_swaps(monkeypatch):
    scores = make_blocks("normal", 5, 8)
    at_once = tmask.get_solver("entropic").solve(scores, 4).masks
    monkeypatch.setattr("tmask_solvers.entropic._SWAP_ENTRIES", 2 * 8**3)
    np.testing.assert_array_equal(tmask.get_solver("entropic").solve(scores, 4).masks, at_once)
