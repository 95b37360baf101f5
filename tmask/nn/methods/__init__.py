"""Pruning one layer: a mask of an allowed kind and weights on it, from the layer's weight and what its inputs are like.

Legend: R outputs, C inputs; X (S, C) the inputs that the pruned layer will read.
"""
