"""Everything that needs a GPU, in one command of at most six minutes: tests, a sanitizer, both benchmarks.

    make gpu        or        python -m bench.gpu_all [--out FOLDER]

Needs torch, numba-cuda and the test tools; installs nothing. The most telling part comes first, and each has a limit
and a log of its own, so that one that fails or is cut off loses nothing of the others. Logs, CSVs named by the device,
and the table of parts go to one folder. Exit codes: 1 if a part failed or was cut off, 3 without a CUDA device.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.parts_run import Part, run_parts, table

NO_DEVICE = 3
LIMIT = 360  # seconds, of all parts together

ROOT = Path(__file__).parents[1]
_PYTEST = (sys.executable, "-m", "pytest", "-v", "--durations=10")
_PACKED = "(cusparselt or cutlass or cuda) and not emulated"


def parts(device: str, folder: Path) -> list[Part]:
    """What is run on a device of this name, in order."""
    name = re.sub("[^a-z0-9]+", "-", device.lower()).strip("-")
    small = (sys.executable, "-m", "bench.gpu_small")
    tests = "tests/bench/test_gpu.py", "tests/bench/test_gpu_training.py", "tests/cli/test_doctor.py"
    # How kernels are launched first: where that fails, all that follows is slow.
    masks = "tests/solvers/test_cuda_direct.py", "tests/solvers/test_midpoint_cuda.py"
    solving = "tests/solving/test_tensors.py", "tests/solvers/test_cuda_code.py"
    sizes = "--patterns=2:4,4:8,8:16", "--sides=4096", "--dtypes=float32,bfloat16", "--repeats=7", "--budget=0.5"
    return [
        Part("small", small, 25),
        Part("tests-packing", (*_PYTEST, "tests/nn/packing", "tests/nn/training/test_graphed.py", "-k", _PACKED), 50),
        Part(
            "bench-training",
            (
                sys.executable,
                "-m",
                "bench.gpu_training",
                f"--out={folder / f'gpu-training-{name}.csv'}",
                "--scale=small",
            ),
            70,
        ),
        Part("tests-masks", (*_PYTEST, *masks, "-k", "gpu"), 80),
        Part("tests-others", (*_PYTEST, *solving, *tests, "-k", "cuda or gpu or device or times"), 35),
        Part("sanitizer", ("compute-sanitizer", "--error-exitcode=9", *small), 30, needs="compute-sanitizer"),
        Part("bench-masks", (sys.executable, "-m", "bench.gpu", f"--out={folder / f'gpu-{name}.csv'}", *sizes), 70),
    ]


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """With this checkout's packages, which need not be installed, before any others."""
    paths = [str(ROOT), str(ROOT / "solvers"), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def main(
    out: Annotated[Path, typer.Option(help="The folder for logs, CSVs and the table.")] = ROOT / "build" / "gpu",
) -> None:
    """Run all parts, and print what became of them."""
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        raise typer.Exit(NO_DEVICE)
    folder = out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for outcome in run_parts(parts(torch.cuda.get_device_name(), folder), folder, child_environment(os.environ), ROOT):
        outcomes.append(outcome)
        print(f"{outcome.name}: {outcome.words}, {outcome.seconds:.0f} s", flush=True)
    print(f"\n{table(outcomes)}\n\nCSVs: {', '.join(sorted(path.name for path in folder.glob('*.csv'))) or 'none'}")
    if not all(outcome.good for outcome in outcomes):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
