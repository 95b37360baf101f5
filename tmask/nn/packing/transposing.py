"""Results that kernels leave transposed, laid out as others expect them.

torch copies them entry by entry: 8192 x 4096 numbers of two bytes took it 0.23 ms on an H200, seven times as long as to
read and to write them. A kernel that turns squares on the chip does so at the memory's pace.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tmask.nn.mask.believed import Believed

_TRIAL = (80, 144)  # more than a program's square, and no multiple of it

_kernels = Believed("transposed results are copied by torch")


def contiguous(matrix: Tensor) -> Tensor:
    """The same numbers, row by row; the matrix itself where they lie so."""
    if matrix.is_contiguous() or matrix.dim() != 2 or matrix.element_size() != 2 or matrix.stride(0) != 1:
        return matrix.contiguous()
    device = matrix.device
    if not _kernels.pays(matrix) or not _kernels.takes(device, 2, lambda: _turns_right(device)):
        return matrix.contiguous()
    turned = torch.empty(matrix.shape, dtype=matrix.dtype, device=device)
    if _kernels.run(device, lambda: _launch(matrix.detach().t().view(torch.int16), turned.view(torch.int16))):
        return turned
    return matrix.contiguous()


def _turns_right(device: torch.device) -> bool:
    rows, cols = _TRIAL
    # With room behind each line, as of a result that was padded.
    matrix = torch.arange(rows * cols, device=device).to(torch.int16).view(rows, cols)[:, : cols - 8]
    turned = torch.full((cols - 8, rows), -1, dtype=torch.int16, device=device)
    _launch(matrix, turned)
    return torch.equal(turned, matrix.t())


def _launch(matrix: Tensor, turned: Tensor) -> None:
    from tmask.nn.packing import transposing_kernel  # late: it imports Triton, which a torch without CUDA lacks

    transposing_kernel.turn(matrix, turned)
