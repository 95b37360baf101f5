"""Figures from the tables of a comparison, and of the diversity of masks."""
