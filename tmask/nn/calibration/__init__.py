"""Calibration data through a model: in which order layers are called, what they read, and the sums of that."""
