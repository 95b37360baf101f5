"""How long `import tmask` takes beside `import numpy`, in fresh processes, in turn.

python -m bench.import_time
"""

from __future__ import annotations

import statistics
import subprocess
import sys

REPEATS = 15
CODE = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def seconds(module: str) -> float:
    """One import in a new interpreter."""
    output = subprocess.run([sys.executable, "-c", CODE.format(module)], capture_output=True, text=True, check=True)
    return float(output.stdout)


def main() -> None:
    """Print both medians and their ratio."""
    seconds("tmask")  # the first import writes bytecode
    # In turn, so that a slow moment of the machine hits both.
    pairs = [(seconds("numpy"), seconds("tmask")) for _ in range(REPEATS)]
    numpy, tmask = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"import numpy {1e3 * numpy:.0f} ms, import tmask {1e3 * tmask:.0f} ms (numpy included): {tmask / numpy:.2f} x"
    )


if __name__ == "__main__":
    main()
