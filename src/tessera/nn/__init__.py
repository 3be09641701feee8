"""Leaf modules: numbers in, tensors out; they know no config, no data and no files."""
