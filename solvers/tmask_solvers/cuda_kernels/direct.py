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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tmask_solvers.cuda_kernels import cubins
from tmask_solvers.cuda_kernels.code.kernels import Kernel
from tmask_solvers.cuda_kernels.code.lines import WARP
from tmask_solvers.cuda_kernels.cubins import Cubin, CubinKey

log = logging.getLogger("tmask")

Argument = Tensor | int | tuple[int, ...]
Numba = Callable[[], AbstractContextManager[Any]]

_loaded: dict[tuple[Any, ...], tuple[Any, Cubin]] = {}


@dataclass(frozen=True)
class Driver:
    """The few calls of NVIDIA's driver, by way of cuda.core."""

    def load(self, cubin: Cubin) -> Any:
        return _core().ObjectCode.from_cubin(cubin.code).get_kernel(cubin.entry)

    def launch(self, kernel: Any, blocks: int, stream: int, numbers: Sequence[int]) -> None:
        _core().launch(_stream(stream), _grid(blocks), kernel, *numbers)


@cache
def _core() -> Any:
    """cuda.core, which comes with numba-cuda; has no types."""
    return importlib.import_module("cuda.core")


# Kept, since to make them takes several times as long as a launch. Neither holds more than the number that it is of.
@cache
def _stream(handle: int) -> Any:
    return _core().Stream.from_handle(handle)


@lru_cache(1024)
def _grid(blocks: int) -> Any:
    return _core().LaunchConfig(grid=blocks, block=WARP)


class Launch(NamedTuple):
    """Blocks of one warp each of a kernel that is loaded, with the numbers that it takes."""

    code: Any
    blocks: int
    numbers: list[int]

    def at(self, addresses: Iterable[tuple[int, int]]) -> Launch:
        """The same with other numbers at some places."""
        numbers = self.numbers.copy()
        for place, address in addresses:
            numbers[place] = address
        return Launch(self.code, self.blocks, numbers)


def prepared(
    driver: Driver,
    kernel: Kernel,
    capability: tuple[int, int],
    blocks: int,
    arguments: Sequence[Argument],
    numba: Numba,
) -> Launch:
    """What is to be launched; loads the kernel, and compiles it if no process has done so before.

    Args:
        arguments: tensors, integers, and tuples of integers.
        numba: gives numba.cuda at this device for as long as something is compiled; not called otherwise.
    """
    types = tuple(map(_type_name, arguments))
    # One cubin serves all GPUs of a capability: the driver loads it for each when it is first used there.
    at = (driver, kernel.name, types, capability)
    if at not in _loaded:
        cubin = cubin_of(CubinKey(kernel.name, types, capability), kernel, numba)
        _loaded[at] = driver.load(cubin), cubin
    code, cubin = _loaded[at]
    numbers = flattened(arguments)
    if len(numbers) != cubin.numbers:
        raise RuntimeError(
            f"kernel {kernel.name} takes {cubin.numbers} numbers, and not the {len(numbers)} of its arguments"
        )
    return Launch(code, blocks, numbers)


def flattened(arguments: Sequence[Argument]) -> list[int]:
    """The numbers that stand for tensors and integers, in the order that numba's kernels take them."""
    numbers: list[int] = []
    for argument in arguments:  # tensors last: to ask for them takes longest
        if isinstance(argument, int):
            numbers.append(argument)
        elif isinstance(argument, tuple):
            numbers += argument
        else:
            size = argument.element_size()
            numbers += (0, 0, argument.numel(), size, argument.data_ptr(), *argument.shape)
            numbers += [stride * size for stride in argument.stride()]
    return numbers


def address_slots(arguments: Sequence[Argument]) -> Iterator[tuple[int, Tensor]]:
    """Where among those numbers the addresses of tensors stand."""
    done = 0
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield done + 4, argument
        done += len(flattened((argument,)))


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


def cubin_of(key: CubinKey, kernel: Kernel, numba: Numba) -> Cubin:
    """What is kept on disk, or else compiled now and left there."""
    if (found := cubins.read(key)) is not None:
        return found
    log.info("compiling the CUDA kernel %s: some seconds, once on this machine", key.kernel)
    with numba() as cuda:
        made = compiled(kernel.build(cuda), key.arguments, key.capability)
    cubins.write(key, made)
    return made


_NAMES = {torch.bool: "boolean", torch.bfloat16: "int16"}  # bfloat16 as its bits, which kernels widen


def _type_name(argument: Argument) -> str:
    if isinstance(argument, int):
        return "int64"
    if isinstance(argument, tuple):
        return f"int64 tuple {len(argument)}"
    return _array_name(argument.dtype, argument.dim())


@cache
def _array_name(dtype: torch.dtype, axes: int) -> str:
    # All without gaps: weights and masks come as the memory that they lie in.
    return f"{_NAMES.get(dtype) or str(dtype).removeprefix('torch.')} array {axes}"


def _numba_type(name: str) -> Any:
    import numba

    types: Any = numba.types
    entry, *kind = name.split()
    if not kind:
        return getattr(types, entry)
    shape, length = kind
    if shape == "tuple":
        return types.UniTuple(getattr(types, entry), int(length))
    return types.Array(getattr(types, entry), int(length), "C")
