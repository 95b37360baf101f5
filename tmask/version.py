"""The version of the package, below everything else: mask files carry it, and `tmask` hands it on."""

__version__ = "0.1.0"
