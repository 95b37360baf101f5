"""The midpoint iteration as vector code, a block a SIMD lane, with its ties and its way out."""
