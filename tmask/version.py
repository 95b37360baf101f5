"""The version, apart, since what writes files names it, and the package's face hands that on."""

__version__ = "0.1.0"
