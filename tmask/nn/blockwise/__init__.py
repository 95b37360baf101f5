"""A model of many like blocks pruned block by block: linear cost, and memory for one block beside the hidden states."""
