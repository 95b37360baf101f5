"""Solvers measured against each other: runs and their summary, where they were made, and built-in weights."""
