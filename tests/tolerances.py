"""How close exact solvers must come to the optimum, relative to it; one table for every test.

Solvers that work on a grid (integer costs, augmenting paths) are exact for float32 scores within 2^22 of a block's
largest; beyond that the grid may cost n * m * 2^-45 of the largest. The MILP solvers stop at their own tolerances.
"""

GRID = 2.0**-35
TOLERANCE = {"pulp-cbc": 1e-7, "pulp-highs": 1e-7}


def tolerance(solver: str) -> float:
    """The relative tolerance of a solver's objective."""
    return TOLERANCE.get(solver, GRID)
