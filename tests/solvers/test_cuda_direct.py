"""Kernels launched without numba's launcher: what is handed over and kept on disk, and what happens where it fails.

The driver is a fake; `test_kernels_take_the_numbers_of_their_arguments` compiles real kernels, which needs no GPU.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import subprocess
import sys
import textwrap
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

import bench.gpu_kernels
import tmask
from tests.solvers.cuda_machines import pretend, simulate, why_no_gpu
from tests.solvers.test_cuda_code import why_not
from tmask_solvers.cuda_kernels import cubins, direct, judging, one_matrix
from tmask_solvers.cuda_kernels import device as device_module
from tmask_solvers.cuda_kernels.code import kernels
from tmask_solvers.cuda_kernels.cubins import Cubin, CubinKey
from tmask_solvers.cuda_kernels.device import Device
from tmask_solvers.cuda_kernels.direct import Driver
from tmask_solvers.cuda_kernels.repeating import Repeats
from tmask_solvers.midpoint_cuda import MidpointCuda


class FakeDriver:
    """Notes what it is told to load and to launch."""

    def __init__(self) -> None:
        self.loaded: list[Cubin] = []
        self.launches: list[tuple[str, int, int, list[int]]] = []

    def load(self, cubin: Cubin) -> str:
        self.loaded.append(cubin)
        return cubin.entry

    def launch(self, kernel, blocks, stream, numbers) -> None:
        self.launches.append((kernel, blocks, stream, list(numbers)))


@pytest.fixture(autouse=True)
def afresh(monkeypatch, tmp_path):
    """A process that has compiled, refused and said nothing, and a disk that holds nothing."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(direct, "_loaded", {})
    monkeypatch.setattr(device_module, "_refused", [])
    cubins._say_once.cache_clear()


@pytest.fixture
def compilations(monkeypatch) -> list[str]:
    """What was compiled, to a code that takes what kernels take."""
    found = []

    def compiled(kernel, types, capability):
        found.append(kernel.name)
        return Cubin(f"entry of {kernel.name}", kernel.numbers, b"code")

    monkeypatch.setattr(direct, "compiled", compiled)
    return found


def start(driver, *arguments, numbers, name="rounds-4-8-float32"):
    kernel = SimpleNamespace(name=name, numbers=numbers)
    kernel.build = lambda cuda: kernel
    launch = direct.prepared(driver, kernel, (9, 0), 7, arguments, nullcontext)
    driver.launch(launch.code, launch.blocks, 0xABC, launch.numbers)


def test_arrays_become_numbers_in_the_order_of_numba():
    view = torch.zeros(4, 6, dtype=torch.bfloat16).t()[1:]
    address = view.data_ptr()
    assert direct.flattened((3, view, (7, 8), -1)) == [3, 0, 0, 20, 2, address, 5, 4, 2, 12, 7, 8, -1]


def test_a_kernel_is_compiled_and_loaded_once(compilations):
    driver, x = FakeDriver(), torch.zeros(5)
    for count in (1, 2):
        start(driver, x, count, numbers=8)
    assert compilations == ["rounds-4-8-float32"]
    assert len(driver.loaded) == 1
    entry, blocks, stream, numbers = driver.launches[1]
    assert (entry, blocks, stream) == ("entry of rounds-4-8-float32", 7, 0xABC)
    assert numbers == [0, 0, 5, 4, x.data_ptr(), 5, 4, 2]
    start(driver, x.double(), 1, numbers=8)
    start(driver, x, 1, numbers=8, name="paths-4-8-float32")
    assert len(compilations) == 3, "for other arguments, and for another kernel"


def test_the_driver_gets_stream_and_grid_and_what_they_are_made_of_once(monkeypatch):
    made, launched = [], []
    core = SimpleNamespace(
        Stream=SimpleNamespace(from_handle=lambda handle: made.append(handle) or f"stream {handle}"),
        LaunchConfig=lambda grid, block: made.append((grid, block)) or f"{grid} of {block}",
        launch=lambda *given: launched.append(given),
    )
    monkeypatch.setattr(direct, "_core", lambda: core)
    for kept in (direct._stream, direct._grid):
        kept.cache_clear()
    for stream, blocks in ((0, 7), (5, 7), (0, 9), (5, 9)):
        Driver().launch("kernel", blocks, stream, [1, 2])
    for kept in (direct._stream, direct._grid):
        kept.cache_clear()
    assert launched[0] == ("stream 0", "7 of 32", "kernel", 1, 2)
    assert launched[3] == ("stream 5", "9 of 32", "kernel", 1, 2)
    assert made == [0, (7, 32), 5, (9, 32)]


def test_a_process_finds_what_one_before_has_compiled(compilations, monkeypatch):
    start(FakeDriver(), 1, numbers=1)
    monkeypatch.setattr(direct, "_loaded", {})
    driver = FakeDriver()
    start(driver, 1, numbers=1)
    assert len(compilations) == 1
    assert driver.loaded == [Cubin("entry of rounds-4-8-float32", 1, b"code")]


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + b"!"])
def test_a_damaged_file_is_written_anew(compilations, monkeypatch, tmp_path, damage):
    start(FakeDriver(), 1, numbers=1)
    (path,) = tmp_path.rglob("*.cubin")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    monkeypatch.setattr(direct, "_loaded", {})
    driver = FakeDriver()
    start(driver, 1, numbers=1)
    assert len(compilations) == 2
    assert len(driver.launches) == 1
    assert path.read_bytes() == whole
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing half written stays"


def test_a_folder_that_cannot_be_written_costs_time_alone_and_is_said_once(compilations, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    driver = FakeDriver()
    with caplog.at_level(logging.WARNING, "tmask"):
        for name in ("one", "two"):
            start(driver, 1, numbers=1, name=name)
    assert len(driver.launches) == 2
    (record,) = caplog.records
    assert "cannot be kept on disk" in record.message
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in record.message


def test_a_key_tells_kernels_arguments_capabilities_and_compilers_apart(monkeypatch):
    keys = [
        CubinKey("a", ("int64",), (9, 0)),
        CubinKey("b", ("int64",), (9, 0)),
        CubinKey("a", (), (9, 0)),
        CubinKey("a", ("int64",), (8, 0)),
    ]
    names = {key.file_name() for key in keys}
    cubins._surroundings.cache_clear()
    monkeypatch.setattr(cubins, "_version", lambda name: f"{name} 99")
    names.add(keys[0].file_name())
    monkeypatch.undo()
    cubins._surroundings.cache_clear()
    assert len(names) == 5


def pretend_device(monkeypatch, cuda, driver, capability=(9, 0)) -> None:
    @contextmanager
    def on_device(device):
        yield Device(0xABC, 1, driver, cuda, capability, least=1)

    pretend(monkeypatch, on_device)


@pytest.mark.parametrize("fault", ["compiling", "loading", "launching", "other numbers"])
def test_whatever_fails_numba_launches_and_one_line_says_why(monkeypatch, caplog, fault):
    cuda = simulate(monkeypatch)
    driver = FakeDriver()

    def fail(*arguments):
        raise RuntimeError(f"no {fault}\nhere")

    monkeypatch.setattr(direct, "compiled", lambda *arguments: Cubin("entry", 68, b""))
    if fault == "compiling":
        monkeypatch.setattr(direct, "compiled", fail)
    elif fault == "other numbers":
        monkeypatch.setattr(direct, "compiled", lambda *arguments: Cubin("entry", 3, b""))
    else:
        setattr(driver, {"loading": "load", "launching": "launch"}[fault], fail)
    pretend_device(monkeypatch, cuda, driver)
    weight = torch.randn((1, 1, 8, 16), generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(weight.shape, dtype=torch.bool)
    with caplog.at_level(logging.INFO, "tmask"):
        for _ in range(2):
            MidpointCuda().solve_matrices(weight, 4, 8, masks)
    assert float(weight[masks].abs().sum()) == pytest.approx(tmask.solve(weight[0, 0], "4:8").objective)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "launched by numba-cuda" in warnings[0]
    assert ("takes 3 numbers" if fault == "other numbers" else f"RuntimeError: no {fault} here") in warnings[0]
    assert not driver.launches


LIES = {
    "as made": lambda *shape, dtype: torch.ones(shape, dtype=dtype),
    "transposed": lambda k, g, rows, cols, dtype: torch.ones((k, g, cols, rows), dtype=dtype).mT,
    "behind three": lambda *shape, dtype: torch.ones(3 + math.prod(shape), dtype=dtype)[3:].view(shape),
}
COUNTS = {"closed": 49, "rounds": 68, "paths": 75, "judge": 50, "tally": 50}


@pytest.fixture
def counting(monkeypatch) -> FakeDriver:
    """Kernels that are never compiled, launched by a driver that counts."""
    driver = FakeDriver()
    monkeypatch.setattr(direct, "compiled", lambda kernel, *_: Cubin(kernel.kind, COUNTS[kernel.kind], b""))
    monkeypatch.setattr(kernels.Kernel, "build", lambda kernel, cuda: kernel)
    monkeypatch.setattr(Device, "_numba", lambda self: nullcontext())
    simulate(monkeypatch)
    pretend_device(monkeypatch, None, driver)
    return driver


def same_but_for_addresses(once, again):
    """Whether two calls launch alike, on other memory: places in it correspond, one to one."""
    moved = {}
    for (kernel, blocks, stream, numbers), (kernel_2, blocks_2, stream_2, numbers_2) in zip(once, again, strict=True):
        assert (kernel, blocks, stream) == (kernel_2, blocks_2, stream_2)
        for one, other in zip(numbers, numbers_2, strict=True):
            assert one == other or (min(one, other) > 1 << 20 and moved.setdefault(one, other) == other)
    return len(set(moved.values())) == len(moved)


@pytest.mark.parametrize("lies", LIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("pattern", [(2, 4), (4, 8)])
def test_a_call_like_one_before_launches_the_same_on_its_own_memory(counting, monkeypatch, pattern, dtype, lies):
    tensors = [(LIES[lies](2, 3, 16, 24, dtype=dtype), LIES[lies](2, 3, 16, 24, dtype=torch.bool)) for _ in range(2)]
    solver = MidpointCuda()

    def launches_of(call):
        counting.launches.clear()
        proof = call()
        return list(counting.launches), proof

    first, _ = launches_of(lambda: solver.solve_matrices(*tensors[0][:1], *pattern, tensors[0][1]))
    monkeypatch.setattr(one_matrix, "solve_tiles", None)  # what follows does without
    for weights, masks in reversed(tensors):
        again, proof = launches_of(lambda w=weights, k=masks: solver.solve_matrices(w, *pattern, k))
        assert same_but_for_addresses(first, again)
        numbers = again[0][3]
        assert {weights.data_ptr(), masks.data_ptr()} <= set(numbers)
        tensor = proof.col_prices if proof.slack is None else proof.slack
        assert tensor.dtype == torch.float64
        assert tensor.shape == ((2 * 3 * 16 * 24 // pattern[1] ** 2, pattern[1]) if proof.slack is None else ())


def test_no_call_is_taken_for_another_one(counting, monkeypatch):
    """Each launches what it would in a process that remembers nothing."""
    solver = MidpointCuda()

    def numbers_of(pattern, columns, lies, lies_mask):
        weights, masks = (
            LIES[how](2, 3, 16, columns, dtype=dtype)[..., :16]
            for how, dtype in ((lies, torch.float32), (lies_mask, torch.bool))
        )
        counting.launches.clear()
        solver.solve_matrices(weights, *pattern, masks)
        return [number for *_, numbers in counting.launches for number in numbers if number < 1 << 20]

    calls = [*itertools.product(((2, 4), (1, 4), (2, 8)), (16, 24), LIES, LIES)]
    remembering = [numbers_of(*call) for call in calls * 2]
    for call, numbers in zip(calls * 2, remembering, strict=True):
        monkeypatch.setattr(one_matrix, "_calls", Repeats())
        assert numbers_of(*call) == numbers


def test_a_mask_in_the_memory_of_its_weight_is_told_from_it(counting):
    memory = torch.ones(4096)
    solver = MidpointCuda()
    for _ in range(2):
        weights, masks = memory[:256].view(1, 1, 16, 16), memory.view(torch.bool)[8192 : 8192 + 256].view(1, 1, 16, 16)
        solver.solve_matrices(weights, 4, 8, masks)
    apart = torch.ones(1, 1, 16, 16), torch.ones(1, 1, 16, 16, dtype=torch.bool)
    counting.launches.clear()
    solver.solve_matrices(apart[0], 4, 8, apart[1])
    assert len(one_matrix._calls._known) == 1, "it lies alike"
    for *_, numbers in counting.launches:
        assert {one.data_ptr() for one in apart} <= set(numbers)


@pytest.mark.parametrize("prices", [True, False])
def test_a_judgement_like_one_before_is_launched_alike_too(counting, monkeypatch, prices):
    parts = []
    for _ in range(2):
        values = torch.randn(1, 1, 2, 3, 4, 4)
        parts.append((values, values > 0, 2, torch.randn(6, 4, dtype=torch.float64) if prices else None))
    judging.examine_all(parts[:1])
    once = list(counting.launches)
    counting.launches.clear()
    monkeypatch.setattr(judging, "_examine_many", None)
    assert judging.examine_all(parts[1:]).shape == (1, judging.FIGURES)
    assert same_but_for_addresses(once, counting.launches)
    expected = [parts[1][0], parts[1][1], *([parts[1][3]] if prices else [])]
    assert {one.data_ptr() for one in expected} <= set(counting.launches[0][3])


def test_a_launch_that_fails_later_goes_the_whole_way_anew(counting, monkeypatch, caplog):
    solver = MidpointCuda()
    weights, masks = torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    solver.solve_matrices(weights, 4, 8, masks)

    def fail(*_):
        raise RuntimeError("no launching here")

    monkeypatch.setattr(counting, "launch", fail)
    by_numba = []
    monkeypatch.setattr(Device, "_launch_by_numba", lambda self, kernel, *_: by_numba.append(kernel.kind))
    for _ in range(2):
        solver.solve_matrices(weights, 4, 8, masks)
    assert by_numba == ["rounds", "paths"] * 2
    assert caplog.text.count("no launching here") == 1


@pytest.mark.parametrize(
    ("pattern", "dtype", "capability"),
    [("2:4", "float32", (8, 0)), ("4:8", "bfloat16", (9, 0)), ("3:6", "float64", (10, 0))],
)
def test_kernels_take_the_numbers_of_their_arguments(monkeypatch, pattern, dtype, capability):
    """The real kernels of a call, compiled for a GPU that is not here."""
    if reason := why_not():
        pytest.skip(reason)
    numba_cuda = pytest.importorskip("numba.cuda")
    simulate(monkeypatch)
    driver = FakeDriver()
    pretend_device(monkeypatch, numba_cuda, driver, capability)
    monkeypatch.setattr(device_module, "numba_at", lambda cuda: bench.gpu_kernels.pretended(capability))
    kernels._built.cache_clear()  # device functions are compiled for one capability
    n, m = map(int, pattern.split(":"))
    weight = torch.randn((1, 1, 2 * m, 2 * m)).to(getattr(torch, dtype))
    with bench.gpu_kernels.pretended(capability):
        MidpointCuda().solve_matrices(weight, n, m, torch.zeros(weight.shape, dtype=torch.bool))
    assert [len(numbers) for *_, numbers in driver.launches] == [cubin.numbers for cubin in driver.loaded]
    assert len(driver.launches) == 2
    assert all(cubin.code.startswith(b"\x7fELF") for cubin in driver.loaded)
    kinds = [re.search("solve_(tiles|left)", cubin.entry)[1] for cubin in driver.loaded]
    assert kinds == ["tiles", "left"]


PRETENDED = """
    import contextlib, sys, time
    import torch
    import tmask
    from tmask_solvers.cuda_kernels import direct, judging, launch, repeating, usable
    from tmask_solvers.cuda_kernels.code.kernels import Kernel
    from tmask_solvers.cuda_kernels.device import Device
    from tmask_solvers.midpoint_cuda import MidpointCuda

    class Driver:
        launched = []
        def load(self, cubin):
            return cubin.entry
        def launch(self, kernel, blocks, stream, numbers):
            self.launched.append(kernel)

    @contextlib.contextmanager
    def on_device(device):
        yield Device(0, 1, Driver(), capability=(9, 0))

    launch.on_device = judging.on_device = repeating.on_device = on_device
    torch.version.cuda, torch.cuda.is_available, torch.cuda.current_device = "13.0", lambda: True, lambda: 0
    torch.cuda.is_current_stream_capturing = lambda: False
    usable.properties = lambda index: (1, (9, 0))
    judging.takes = lambda device_type, side: True
    MidpointCuda.device_types = ("cpu",)
    tmask.solving.api.stays_on_device = tmask.solving.entry._has_driver = lambda *_: True
"""
SOLVING = """
    begin = time.perf_counter()
    for pattern in ("2:4", "4:8"):
        try:
            tmask.solve(torch.randn(64, 64), pattern, "midpoint-cuda")
        except tmask.TmaskError:
            pass  # nothing has written the mask and its figures
    print(*Driver.launched, f"seconds={time.perf_counter() - begin:.3f}", *(x for x in sys.modules if x == "numba"))
"""


def test_with_kernels_on_disk_a_process_does_without_numba(tmp_path):
    """As far as a launch goes: devices are pretended, and what is kept on disk are names."""
    compiling = """
        usable.numba_cuda = lambda: type("cuda", (), {"jit": lambda *_: lambda kernel: None})
        usable.numba_at = lambda cuda: contextlib.nullcontext()
        Device._numba = lambda self: contextlib.nullcontext()
        Kernel.build = lambda kernel, cuda: kernel
        counts = {"closed": 49, "rounds": 68, "paths": 75, "judge": 50, "tally": 50}
        direct.compiled = lambda kernel, *_: direct.Cubin(kernel.kind, counts[kernel.kind], b"")
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def run(*texts):
        code = "".join(textwrap.dedent(text) for text in texts)
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        ).stdout.split()

    kinds = ["closed", "paths", "tally", "rounds", "paths", "judge"]
    first, second = run(PRETENDED, compiling, SOLVING), run(PRETENDED, SOLVING)
    assert first[:6] == kinds, "or a kernel takes other numbers of arguments"
    assert second[:6] == kinds
    assert len(second) == 7, "numba was imported"


@pytest.mark.skipif(bool(why_no_gpu()), reason=why_no_gpu() or "none")
class TestOnAGpu:
    def test_kernels_are_launched_directly(self, caplog):
        weight = torch.randn((256, 256), device="cuda")
        with caplog.at_level(logging.WARNING, "tmask"):
            for pattern in ("2:4", "4:8"):
                ours = tmask.solve(weight, pattern, solver="midpoint-cuda").objective
                assert ours == pytest.approx(tmask.solve(weight.cpu(), pattern).objective, rel=1e-12)
        assert not [record for record in caplog.records if "numba-cuda" in record.message]
        assert direct._loaded

    @pytest.mark.parametrize("pattern", ["2:4", "4:8"])
    def test_a_graph_holds_a_solve(self, pattern):
        n, m = map(int, pattern.split(":"))
        weight = torch.randn((1, 1, 512, 512), device="cuda")
        masks = torch.zeros(weight.shape, dtype=torch.bool, device="cuda")
        solver = MidpointCuda()
        solver.solve_matrices(weight, n, m, masks)  # loads the kernels
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            solver.solve_matrices(weight, n, m, masks)
        weight.copy_(torch.randn(weight.shape, device="cuda"))
        graph.replay()
        expected = torch.zeros_like(masks)
        solver.solve_matrices(weight, n, m, expected)
        assert (masks == expected).all()
