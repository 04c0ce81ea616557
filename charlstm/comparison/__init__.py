"""Several runs beside each other: measured on one text, with what they cost and where they differ."""

from .measuring import Comparison, LeftOut, Measured, compare

__all__ = ["Comparison", "LeftOut", "Measured", "compare"]
