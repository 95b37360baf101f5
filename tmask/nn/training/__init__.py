"""Sparse training from `sparsify` to `export`: when masks are renewed, and all that has to follow."""
