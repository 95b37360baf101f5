"""A warp on the CPU: runs a kernel's Python code by 32 lanes, of which one is at work at a time.

Lanes are threads that hand each other the turn where the code waits for the others: at a barrier, a vote or a shuffle.
In between, each runs alone, in an order that is drawn anew each time; so a barrier that is missing shows as a wrong
result in some order. Lanes that wait at different places, or that end while others wait, are an error, and so is what a
GPU would compute in another precision than the kernel says.

A barrier alone orders shared memory: on a GPU, votes and shuffles make lanes meet, and promise nothing of what they
have written before. So an entry that one lane writes and another one touches is an error if no barrier lies between.

`SimulatedCuda` stands in for the module `numba.cuda`.
"""

from __future__ import annotations

import ctypes
import random
import threading
from types import SimpleNamespace

import numpy as np
import torch

WARP = 32


class _Lane(threading.Thread):
    def __init__(self, warp: _Warp, index: int) -> None:
        super().__init__(daemon=True)
        self.warp = warp
        self.index = index
        self.turn = threading.Semaphore(0)
        self.request: tuple[str, object] | None = None  # what it waits for; None if it has ended
        self.reply: object = None
        self.arrays = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        self.turn.acquire()
        try:
            if not self.warp.abandoned:
                with np.errstate(all="ignore"):  # a GPU warns of nothing
                    self.warp.code()
        except BaseException as error:
            self.error = error
        self.request = None
        self.warp.back.release()

    def wait(self, kind: str, value: object) -> object:
        """Hand the turn back until all lanes have come to the same place."""
        self.request = (kind, value)
        self.warp.back.release()
        self.turn.acquire()
        if self.warp.abandoned:
            raise SystemExit
        return self.reply


class _Warp:
    def __init__(self, code, order: random.Random) -> None:
        self.code = code
        self.order = order
        self.back = threading.Semaphore(0)
        self.abandoned = False
        self.arrays: list[Shared] = []
        self.barriers = 0
        self.lanes = [_Lane(self, index) for index in range(WARP)]
        self.current = self.lanes[0]

    def run(self) -> None:
        for lane in self.lanes:
            lane.start()
        try:
            while True:
                for lane in self.order.sample(self.lanes, WARP):
                    self._give_turn(lane)
                    if lane.error is not None:
                        raise lane.error
                waiting = [lane for lane in self.lanes if lane.request is not None]
                if not waiting:
                    return
                kinds = {lane.request[0] if lane.request else "the end" for lane in self.lanes}
                assert len(kinds) == 1, f"lanes diverge: {sorted(kinds)}"
                self._reply(kinds.pop())
        finally:
            self.abandoned = True
            for lane in self.lanes:
                if lane.is_alive():
                    self._give_turn(lane)

    def _give_turn(self, lane: _Lane) -> None:
        self.current = lane
        lane.turn.release()
        self.back.acquire()

    def _reply(self, kind: str) -> None:
        values = [lane.request[1] for lane in self.lanes]
        if kind.startswith("shuffle"):
            step = int(kind.split()[1])
            replies = [values[index ^ step] for index in range(WARP)]
        elif kind.startswith("broadcast"):
            replies = [values[int(kind.split()[1])]] * WARP
        else:
            bits = sum(bool(value) << index for index, value in enumerate(values))
            signed = bits - (1 << 32) if bits >> 31 else bits  # an int32, as on a GPU
            self.barriers += kind == "barrier"
            reply = {"barrier": None, "ballot": signed, "any": bits != 0, "all": bits == (1 << 32) - 1}[kind]
            replies = [reply] * WARP
        for lane, reply in zip(self.lanes, replies, strict=True):
            lane.reply = reply


class Shared:
    """An array of shared memory, which holds rubbish at first and notes who has touched which entry since a barrier."""

    def __init__(self, warp: _Warp, size: int, dtype) -> None:
        self.warp = warp
        self.values = np.frombuffer(b"\xa5" * (size * np.dtype(dtype).itemsize), dtype).copy()
        self.since = [-1] * size  # at which barrier that was noted
        self.readers, self.writers = [0] * size, [0] * size  # words, a bit for each lane

    def __getitem__(self, index: int) -> object:
        self._touch(index)
        assert not self.writers[index] & ~self._own, self._race(index)
        self.readers[index] |= self._own
        return self.values[index]

    def __setitem__(self, index: int, value: object) -> None:
        self._touch(index)
        before = self.values[index].tobytes()
        self.values[index] = value
        # Lanes beyond the last line repeat it, and write what is there already.
        if self.values[index].tobytes() != before:
            assert not (self.readers[index] | self.writers[index]) & ~self._own, self._race(index)
            self.writers[index] |= self._own

    @property
    def _own(self) -> int:
        return 1 << self.warp.current.index

    def _touch(self, index: int) -> None:
        if self.since[index] != self.warp.barriers:
            self.since[index], self.readers[index], self.writers[index] = self.warp.barriers, 0, 0

    def _race(self, index: int) -> str:
        return f"lane {self.warp.current.index} touches entry {index} with no barrier since another one did"


class _Kernel:
    """What `cuda.jit` makes of a kernel: kernel[blocks, threads, stream](*arguments)."""

    def __init__(self, cuda: SimulatedCuda, code) -> None:
        self.cuda = cuda
        self.code = code

    def __getitem__(self, configuration):
        blocks, threads, *_ = configuration
        assert threads == WARP

        def launch(*arguments) -> None:
            self.cuda.gridDim = SimpleNamespace(x=blocks)
            for block in range(blocks):
                self.cuda.blockIdx = SimpleNamespace(x=block)
                self.cuda.warp = _Warp(lambda: self.code(*arguments), self.cuda.order)
                self.cuda.warp.run()

        return launch


class SimulatedCuda:
    """The parts of `numba.cuda` that kernels use."""

    def __init__(self, seed: int = 0) -> None:
        self.order = random.Random(seed)
        self.warp: _Warp | None = None
        self.libdevice = SimpleNamespace(fmul_rn=_product(np.float32), dmul_rn=_product(np.float64))
        self.shared = SimpleNamespace(array=self._shared_array)
        self.atomic = SimpleNamespace(add=_atomic_add)

    def jit(self, code=None, *, device=False, **options):
        if code is None:
            return lambda code: self.jit(code, device=device)
        return code if device else _Kernel(self, code)

    @property
    def threadIdx(self):
        return SimpleNamespace(x=self.warp.current.index)

    def syncwarp(self) -> None:
        self.warp.current.wait("barrier", None)

    def ballot_sync(self, mask: int, value: object) -> object:
        assert mask == 0xFFFFFFFF
        return self.warp.current.wait("ballot", value)

    def any_sync(self, mask: int, value: object) -> object:
        assert mask == 0xFFFFFFFF
        return self.warp.current.wait("any", value)

    def all_sync(self, mask: int, value: object) -> object:
        assert mask == 0xFFFFFFFF
        return self.warp.current.wait("all", value)

    def shfl_xor_sync(self, mask: int, value: object, step: int) -> object:
        assert mask == 0xFFFFFFFF
        return self.warp.current.wait(f"shuffle {step}", value)

    def shfl_sync(self, mask: int, value: object, lane: int) -> object:
        assert mask == 0xFFFFFFFF
        return self.warp.current.wait(f"broadcast {lane}", value)

    def popc(self, word: object) -> int:
        return (int(word) & 0xFFFFFFFFFFFFFFFF).bit_count()

    def _shared_array(self, size: int, dtype) -> Shared:
        """The k-th array of every lane is the same one, and holds rubbish at first."""
        lane = self.warp.current
        lane.arrays += 1
        if lane.arrays > len(self.warp.arrays):
            self.warp.arrays.append(Shared(self.warp, size, dtype))
        return self.warp.arrays[lane.arrays - 1]


class Memory:
    """An array of one entry, and all that lies before and behind it in memory, as kernels reach it.

    Args:
        tensor: of one entry, on the CPU.
        known: address and bytes of the memory that may be touched, of each tensor that has some.
    """

    def __init__(self, tensor: torch.Tensor, known: list[tuple[int, int]]) -> None:
        self.at, self.dtype, self.known = tensor.data_ptr(), tensor.numpy().dtype, known

    def _entry(self, index: object) -> np.ndarray:
        offset = int(index)
        offset -= 1 << 64 if offset >> 63 else 0  # unsigned, and wrapped
        place = self.at + offset * self.dtype.itemsize
        assert any(start <= place < start + length for start, length in self.known), "memory of nobody"
        content = (ctypes.c_char * self.dtype.itemsize).from_address(place)
        return np.frombuffer(content, self.dtype)

    def __getitem__(self, index: object) -> object:
        return self._entry(index)[0].copy()

    def __setitem__(self, index: object, value: object) -> None:
        self._entry(index)[0] = value


def _product(kind):
    def multiply(x, y):
        assert isinstance(x, kind)
        assert isinstance(y, (kind, float))
        return kind(x * y)

    return multiply


def _atomic_add(array: np.ndarray, index: int, value: object) -> object:
    before = array[index].copy()
    array[index] += value
    return before
