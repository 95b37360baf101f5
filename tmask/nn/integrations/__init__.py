"""Sparse training inside other people's training loops: one file per library, which alone imports it."""
