"""The benchmark: one table of cases, results as CSV, plots drawn from the CSV alone.

Libraries that spread over threads by themselves (BLAS, torch) are held to one, so that solvers are compared by the
work they do. This must be in the environment before numpy is imported, hence here.
"""

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
