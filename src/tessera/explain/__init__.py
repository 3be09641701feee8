"""What a model looks at, what it has learnt, and whether a map of that is to be believed."""
