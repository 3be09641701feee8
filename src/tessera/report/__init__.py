"""What a person gets to see of a run: one page, and the same numbers as JSON."""
