"""How good is a text? Figures of generated text beside those of real text."""
