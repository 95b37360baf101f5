"""A weight cut into blocks under a pattern: arrays and tensors checked at the edge, tiled, and put back together."""
