"""Outputs in the format that their names say."""
