"""Looking inside of a model while it reads: surprise, alternatives, and what every cell does."""

from .reading import ALTERNATIVES, Reading, read
from .search import Cell, Finding, Search, correlations, search

__all__ = ["ALTERNATIVES", "Cell", "Finding", "Reading", "Search", "correlations", "read", "search"]
