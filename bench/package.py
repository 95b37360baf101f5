"""Try what was built: each wheel and sdist in an environment of its own, as a new user would.

python -m bench.package build/package
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

# With the weights that come with the package; {out} is a folder of the trial.
_TRIED = (
    "tmask --version",
    "tmask solve {weights} -p 2:4 -o {out}/masks.safetensors",
    "tmask check {out}/masks.safetensors {weights}",
    "tmask compare -p 2:4 -s midpoint -s greedy-keep --repeats 1 --csv {out}/rows.csv",
    "tmask plot {out}/rows.csv -o {out}/plots",
)


def try_archive(archive: Path) -> None:
    """Install it without its dependencies, which are lent by this environment, and run commands of it.

    Raises:
        CalledProcessError: one fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")])
        python = str(folder / "venv/bin/python")
        [site] = folder.glob("venv/lib/python*/site-packages")
        # A path alone: the .pth files of the folder itself, an editable install of this tree among them, are not read.
        (site / "lent.pth").write_text(sysconfig.get_path("purelib"))
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
        _run([*pip, "--no-build-isolation", "--force-reinstall", "--no-index", str(archive)])
        where = _run([python, "-c", "import tmask, tmask_solvers; print(tmask.__file__)"], folder).strip()
        if not Path(where).is_relative_to(folder):
            raise SystemExit(f"{archive.name}: tmask came from {where}")
        weights = Path(where).parent / "data" / "digits_cnn.safetensors"
        for command in _TRIED:
            program, *args = command.format(weights=weights, out=folder).split()
            _run([str(folder / "venv/bin" / program), *args], folder)


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    """Its output; without this tree on the path."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder or Path.home())}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Try all archives of a folder."""
    for archive in sorted(Path(sys.argv[1]).iterdir()):
        if archive.suffix in (".whl", ".gz"):
            try_archive(archive)
            print(f"{archive.name}: installed, and {len(_TRIED)} commands of it ran")


if __name__ == "__main__":
    main()
