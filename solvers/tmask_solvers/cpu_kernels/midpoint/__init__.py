"""The midpoint iteration as vector code, a block a SIMD lane, and the exact way out for what ties or gets stuck."""
