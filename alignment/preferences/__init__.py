"""Scores become preferences: pairs with probabilities, and the image sets that training reads."""
