"""What runs on the device: Python functions that numba compiles for CUDA. Nothing here launches anything."""
