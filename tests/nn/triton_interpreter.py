"""Triton kernels where there is no GPU: in Triton's interpreter, which a process has from its start or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run_interpreted(code: str) -> None:
    """Run a test's code in the interpreter; skipped where Triton is not installed."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
