"""Kernels that are compiled when they are first called: not before, only once, and without harm if that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("numba")

import tmask
from tests.strategies import make_blocks
from tmask.judging.certificate import objectives
from tmask_solvers.cpu_kernels import late
from tmask_solvers.cpu_kernels.compiling import kernel
from tmask_solvers.cpu_kernels.late import late_kernel


@late_kernel
def half(x, ns) -> float:
    return x / len(ns)


@late_kernel
def negative(x) -> bool:
    return x < 0


@kernel
def half_if_negative(x, ns):
    return half(x, ns) if negative(x) else x


@late_kernel
def never(x) -> int:
    return np.int64(x)


@kernel
def calls_never(x):
    return never(x)


@late_kernel
def wrongly_annotated(x) -> int:
    return x / 2


@kernel
def calls_wrongly_annotated(x):
    return wrongly_annotated(x)


def compiled(name: str) -> int:
    return len(late._kernels[f"{__name__}.{name}"].overloads)


def test_it_is_compiled_when_it_is_called():
    before = compiled("half")
    assert half_if_negative(3.0, (0, 0)) == 3.0
    assert compiled("half") == before
    assert [half_if_negative(-3.0, (0,) * k) for k in (2, 2, 3)] == [-1.5, -1.5, -1.0]  # a version for each type
    assert compiled("half") == before + 2
    assert compiled("negative") == 1


def test_a_failure_is_an_error_of_the_caller(monkeypatch):
    def fail(*arguments):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(late, "address_of", fail)
        with pytest.raises(RuntimeError, match="could not be compiled"):
            calls_never(1)
    assert calls_never(1) == 1  # it is asked for again


def test_a_result_of_another_type_than_annotated_is_an_error():
    """The caller would take some bits for another number."""
    with pytest.raises(RuntimeError, match="could not be compiled"):
        calls_wrongly_annotated(1.0)


def test_an_interrupt_while_it_is_compiled_comes_afterwards(monkeypatch):
    calls = []

    address_of = late.address_of

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return address_of(*arguments)

    monkeypatch.setattr(late, "address_of", interrupted)
    # A shell's background jobs ignore interrupts, and what they start does so too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def call():
        calls_never(np.int32(1))
        # It ends with the interrupt; on a busy machine the thread that sends it may have to wait.
        for _ in range(100):
            time.sleep(0.2)

    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) == 2


CODE = """
import numpy as np, tmask
from tmask.judging.certificate import objectives
from tmask_solvers.cpu_kernels import late
scores = np.load("scores.npy")
solution = tmask.solve(scores, "4:8", "midpoint", threads=2)
names = {name.rpartition(".")[2] for name, kernel in late._kernels.items() if kernel.overloads}
print(solution.objective, *sorted(names))
"""


def run(folder, blocks) -> list[str]:
    np.save(folder / "scores.npy", np.ascontiguousarray(blocks.transpose(1, 0, 2).reshape(8, -1)))
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_fallback_is_compiled_for_those_who_need_it(tmp_path):
    """Also where the kernel that calls it comes from the disk, and the next time it does itself."""
    assert run(tmp_path, np.ones((40, 8, 8), np.float32))[1:] == []
    huge = make_blocks("normal", 40, 8) * np.float32(2.0**120)  # too large for the rounds
    expected = objectives(huge, tmask.get_solver("augmenting-paths").solve(huge, 4).masks).sum()
    for _ in range(2):
        objective, *names = run(tmp_path, huge)
        assert float(objective) == pytest.approx(expected, rel=1e-12)
        assert names == ["fall_back"]
