"""Launches without numba's launcher, which takes ten times as long as the kernels: numbers and a cubin, no more.

numba wraps each tensor in an object, and packs each argument in Python, at every call. What a kernel takes in the end
are numbers of 64 bits, which stand in the tensor anyway: an array becomes (0, 0, entries, bytes of an entry, address,
shape, strides in bytes). They are handed to the driver as they are. That order is numba's, and not promised to stay;
so the compiled kernel is asked how many it takes, and one that takes another number of them is never started.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tmask_solvers.cuda_kernels import cubins
from tmask_solvers.cuda_kernels.cubins import Cubin, CubinKey
from tmask_solvers.cuda_kernels.lines import WARP

log = logging.getLogger("tmask")

_loaded: dict[tuple[Any, ...], tuple[Any, Cubin]] = {}


@dataclass(frozen=True)
class Driver:
    """The few calls of NVIDIA's driver, by way of cuda.core."""

    def load(self, cubin: Cubin) -> Any:
        return _core().ObjectCode.from_cubin(cubin.code).get_kernel(cubin.entry)

    def launch(self, kernel: Any, blocks: int, stream: int, numbers: Sequence[int]) -> None:
        core = _core()
        core.launch(core.Stream.from_handle(stream), core.LaunchConfig(grid=blocks, block=WARP), kernel, *numbers)


@cache
def _core() -> Any:
    """cuda.core, which comes with numba-cuda; has no types."""
    return importlib.import_module("cuda.core")


def start(
    driver: Driver,
    name: str,
    kernel: Any,
    capability: tuple[int, int],
    blocks: int,
    stream: int,
    arguments: Sequence[Tensor | int],
    numba_at: Callable[[Any], AbstractContextManager[Any]],
) -> None:
    """Launch a kernel of blocks of one warp; compiles it if no process has done so before.

    Args:
        name: of the kernel with its n, m and dtype; kernels of one name have one source.
        kernel: what `cuda.jit` made of it.
        arguments: tensors and integers.
        numba_at: makes the device numba's for as long as something is compiled, given numba.cuda.
    """
    types = tuple(map(_type_name, arguments))
    # One cubin serves all GPUs of a capability: the driver loads it for each when it is first used there.
    at = (driver, name, types, capability)
    if at not in _loaded:
        cubin = _cubin(CubinKey(name, types, capability), kernel, numba_at)
        _loaded[at] = driver.load(cubin), cubin
    code, cubin = _loaded[at]
    numbers = flattened(arguments)
    if len(numbers) != cubin.numbers:
        raise RuntimeError(f"kernel {name} takes {cubin.numbers} numbers, and not the {len(numbers)} of its arguments")
    driver.launch(code, blocks, stream, numbers)


def flattened(arguments: Sequence[Tensor | int]) -> list[int]:
    """The numbers that stand for tensors and integers, in the order that numba's kernels take them."""
    numbers: list[int] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            size = argument.element_size()
            strides = (stride * size for stride in argument.stride())
            numbers += (0, 0, argument.numel(), size, argument.data_ptr(), *argument.shape, *strides)
        else:
            numbers.append(argument)
    return numbers


def compiled(kernel: Any, types: Sequence[str], capability: tuple[int, int]) -> Cubin:
    """Machine code for arguments of these types. Needs NVIDIA's compilers, and no GPU."""
    ptx = ptx_of(kernel, types, capability)
    # By its own text, and not by numba's rules for names and arguments.
    entry = re.search(r"\.visible \.entry ([\w$.]+)\((.*?)\)", ptx, re.DOTALL)
    if entry is None or entry[2].count(".param") != len(re.findall(r"\.param \.[ubs]64 ", entry[2])):
        raise RuntimeError("numba-cuda has compiled a kernel that takes something else than numbers of 64 bits")
    architecture = f"sm_{capability[0]}{capability[1]}"
    core = _core()
    code = core.Program(ptx, "ptx", core.ProgramOptions(arch=architecture)).compile("cubin").code
    return Cubin(entry[1], entry[2].count(".param"), bytes(code))


def ptx_of(kernel: Any, types: Sequence[str], capability: tuple[int, int]) -> str:
    """Its PTX, which numba-cuda makes."""
    import numba.cuda

    cuda: Any = numba.cuda  # which has no types
    ptx, _ = cuda.compile(
        kernel.py_func,
        tuple(map(_numba_type, types)),
        cc=capability,
        output="ptx",
        device=False,
        abi="numba",
        launch_bounds=WARP,
    )
    return str(ptx)


def _cubin(key: CubinKey, kernel: Any, numba_at: Callable[[Any], AbstractContextManager[Any]]) -> Cubin:
    if (found := cubins.read(key)) is not None:
        return found
    import numba.cuda

    log.info("compiling the CUDA kernel %s: some seconds, once on this machine", key.kernel)
    with numba_at(numba.cuda):
        made = compiled(kernel, key.arguments, key.capability)
    cubins.write(key, made)
    return made


_NAMES = {torch.bool: "boolean", torch.bfloat16: "int16"}  # bfloat16 as its bits, which kernels widen


def _type_name(argument: Tensor | int) -> str:
    if not isinstance(argument, Tensor):
        return "int64"
    entry = _NAMES.get(argument.dtype) or str(argument.dtype).removeprefix("torch.")
    # Weights and masks of any strides, in one code for all; lists and prices are made here, without gaps.
    return f"{entry} {argument.dim()} {'A' if argument.dim() == 6 else 'C'}"


def _numba_type(name: str) -> Any:
    import numba

    types: Any = numba.types
    if name == "int64":
        return types.int64
    entry, axes, layout = name.split()
    return types.Array(getattr(types, entry), int(axes), layout)
