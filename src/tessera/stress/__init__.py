"""Stress of models on one's own data: the tests, their levels, the results, what to do next."""
