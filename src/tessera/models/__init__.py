"""Whole models, built from a config out of the leaves of ``tessera.nn``."""
