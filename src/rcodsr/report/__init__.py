"""Charts and comparisons as pictures."""
