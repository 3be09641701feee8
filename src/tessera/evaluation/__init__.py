"""Measurements of a trained model, each with what it takes to believe it."""
