"""Position schemes, by what they do to tokens: add, turn or relate."""
