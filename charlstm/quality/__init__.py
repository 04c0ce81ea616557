"""How good is a text? Figures of generated text beside those of real text and of an n-gram model's."""

from .report import FIGURES, TextQuality, text_quality

__all__ = ["FIGURES", "TextQuality", "text_quality"]
