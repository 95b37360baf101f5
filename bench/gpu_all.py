"""Everything that needs a GPU, in one command of at most six minutes: tests, a sanitizer, the benchmarks.

    make gpu        or        python -m bench.gpu_all [--out FOLDER] [--only PARTS] [--dry-run]

Needs torch, numba-cuda and the test tools; installs nothing. What compiles for the others comes first, then the most
telling part. Each has a limit and a log of its own, so that one that fails or is cut off loses nothing of the others.
Logs, CSVs named by the device, and the table of parts go to one folder. `--only` names the parts to run; it alone runs
`bench-compiled`, training steps under torch.compile, whose two minutes would not fit. Exit codes: 1 if a part failed or
was cut off, 3 without a CUDA device. A dry run needs none: it collects the tests, names the kernels and makes tiny
calls on the CPU, in the same parts with the same limits.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.gpu_compile import DTYPES, PATTERNS
from bench.parts_run import Part, run_parts, table
from tmask.errors import InvalidProblemError

NO_DEVICE = 3
LIMIT = 360  # seconds in all
START = 10  # of those, until the first part begins: torch is loaded, and the driver asked

ROOT = Path(__file__).parents[1]
_PYTEST = (sys.executable, "-m", "pytest", "-v", "--durations=10")
# Without errors of the driver's interface: cuda-core makes some, and handles them, while it looks for functions.
_SANITIZER = ("compute-sanitizer", "--error-exitcode=9", "--report-api-errors=no")
_PACKED = "(cusparselt or cutlass or cuda) and not emulated"


def parts(device: str, folder: Path, dry: bool = False) -> list[Part]:
    """What is run on a device of this name, in order.

    Args:
        dry: only what shows on a CPU that each part would start: tests are collected, benchmarks make tiny calls.
    """
    name = _file_name(device)
    small = (sys.executable, "-m", "bench.gpu_small", *(["--device=cpu"] if dry else []))
    pytest = (*_PYTEST, *(["--collect-only", "-q"] if dry else []))
    at_once = () if dry else _workers()
    bench = ("--dry-run",) if dry else ()
    tests = "tests/bench/test_gpu.py", "tests/bench/test_gpu_training.py", "tests/cli/test_doctor.py"
    # How kernels are launched first: where that fails, all that follows is slow.
    masks = "test_cuda_direct", "test_cuda_judging", "test_midpoint_cuda"
    packing = "tests/nn/packing", "tests/nn/mask", "tests/nn/training/test_graphed.py"
    solving = "tests/solving/test_tensors.py", "tests/solvers/test_cuda_code.py"
    masks_csv, others_csv = folder / f"gpu-{name}.csv", folder / f"gpu-others-{name}.csv"
    # What there is to reach, then what it is compared with, which takes far longer.
    ours = "--solvers=midpoint-cuda", f"--patterns={PATTERNS}", "--sides=4096,8192", f"--dtypes={DTYPES}"
    others = "--patterns=4:8,2:4", "--sides=4096", "--dtypes=float32", "--repeats=5", "--budget=0.3"
    return [
        Part("compile", (sys.executable, "-m", "bench.gpu_compile", *bench), 35),
        Part("small", small, 20),
        Part("bench-masks", (*_bench("gpu", masks_csv), *ours, "--repeats=15", "--budget=0.2", *bench), 20),
        Part("tests-packing", (*pytest, *packing, "-k", _PACKED), 55),
        Part(
            "bench-training",
            (*_bench("gpu_training", folder / f"gpu-training-{name}.csv"), "--scale=small", *bench),
            60,
        ),
        Part("first-call", (*_bench("gpu_first", folder / f"gpu-first-{name}.csv"), "--times=2", *bench), 25),
        Part("tests-masks", (*pytest, *at_once, *(f"tests/solvers/{file}.py" for file in masks), "-k", "gpu"), 55),
        Part("tests-others", (*pytest, *at_once, *solving, *tests, "-k", "cuda or gpu or device or times"), 45),
        Part("sanitizer", (*_SANITIZER, *small), 15, needs=_SANITIZER[0]),
        Part("bench-others", (*_bench("gpu", others_csv), *others, *bench), 20),
    ]


def parts_on_demand(device: str, folder: Path, dry: bool = False) -> list[Part]:
    """What is run where it is named, and beyond the six minutes."""
    bench = ("--dry-run",) if dry else ()
    out = folder / f"gpu-compiled-{_file_name(device)}.csv"
    return [
        Part("bench-compiled", (*_bench("gpu_training", out), "--scale=small", "--compiled=only", *bench), 120),
    ]


def chosen(parts: list[Part], extra: list[Part], only: str) -> list[Part]:
    """The parts that were named, in their order; without names, all but the extra ones.

    Raises:
        InvalidProblemError: there is no such part.
    """
    if not only:
        return parts
    names = only.split(",")
    known = [part.name for part in (*parts, *extra)]
    if unknown := [name for name in names if name not in known]:
        raise InvalidProblemError(f"no part {unknown[0]!r}; there are: {', '.join(known)}")
    return [part for part in (*parts, *extra) if part.name in names]


def _file_name(device: str) -> str:
    return re.sub("[^a-z0-9]+", "-", device.lower()).strip("-")


def _workers() -> tuple[str, ...]:
    """Of tests that compile one kernel after the other: several processes, where pytest can have them."""
    cores = os.cpu_count() or 1
    if importlib.util.find_spec("xdist") is None or cores < 4:
        return ()
    return f"--numprocesses={min(12, cores - 2)}", "--dist=worksteal"


def _bench(name: str, out: Path) -> tuple[str, ...]:
    return sys.executable, "-m", f"bench.{name}", f"--out={out}"


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """With this checkout's packages, which need not be installed, before any others."""
    paths = [str(ROOT), str(ROOT / "solvers"), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def main(
    out: Annotated[Path, typer.Option(help="The folder for logs, CSVs and the table.")] = ROOT / "build" / "gpu",
    only: Annotated[str, typer.Option(help="Parts to run, separated by commas; all if empty.")] = "",
    dry_run: Annotated[bool, typer.Option(help="Only see on a CPU whether each part would start.")] = False,
) -> None:
    """Run all parts, and print what became of them."""
    if not dry_run and not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        raise typer.Exit(NO_DEVICE)
    folder = out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    device = "no device" if dry_run else torch.cuda.get_device_name()
    wanted = chosen(parts(device, folder, dry_run), parts_on_demand(device, folder, dry_run), only)
    for outcome in run_parts(wanted, folder, child_environment(os.environ), ROOT):
        outcomes.append(outcome)
        print(f"{outcome.name}: {outcome.words}, {outcome.seconds:.0f} s", flush=True)
    print(f"\n{table(outcomes)}\n\nCSVs: {', '.join(sorted(path.name for path in folder.glob('*.csv'))) or 'none'}")
    if dry_run:
        print("a dry run: nothing was measured")
    if not all(outcome.good for outcome in outcomes):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
