"""As many threads as this process may use, on one level of parallelism."""

import math
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import tmask
from tmask.solving import cores, matrices
from tmask.solving.cores import usable_cores


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(cores, "_affinity", lambda: 4)
    monkeypatch.setattr(cores, "_quota", lambda root: math.inf)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(
    ("text", "expected"), [("", 4), ("1", 1), ("3,2", 3), ("8", 4), ("0", 4), ("many", 4), ("-2", 4), (" 2 ", 2)]
)
def test_omp_num_threads_is_a_limit(four_cores, monkeypatch, text, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert usable_cores() == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu.max": "\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_the_quota_of_a_container(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores._quota(tmp_path) == expected


def test_half_a_core_is_one_thread(four_cores, monkeypatch):
    monkeypatch.setattr(cores, "_quota", lambda root: 0.5)
    assert usable_cores() == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs a system with affinities")
def test_cores_that_are_bound(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert usable_cores() == 1


def test_one_in_a_thread_that_shares_the_work(four_cores):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(usable_cores).result() == 1
    assert usable_cores() == 4


def test_one_in_a_process_that_shares_the_work(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(usable_cores).result() == 1


def test_a_solver_uses_them_by_default(four_cores, monkeypatch):
    seen = set()
    examine = matrices.examine

    def noting(*arguments):
        seen.add(threading.get_ident())
        return examine(*arguments)

    monkeypatch.setattr(matrices, "examine", noting)
    weight = np.random.default_rng(0).standard_normal((4096, 1024), dtype=np.float32)
    many = tmask.solve(weight, "4:8", "midpoint")
    assert len(seen) > 1
    seen.clear()
    one = tmask.solve(weight, "4:8", "midpoint", threads=1)
    assert len(seen) == 1
    np.testing.assert_array_equal(many.mask, one.mask)
    assert many.objective == one.objective
