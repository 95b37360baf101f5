"""How results look: as text, as HTML in a notebook, as a figure. Knows nothing of solvers, masks' makers or models."""
