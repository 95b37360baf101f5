"""Kernels that numba compiles for CUDA, and their launches."""
