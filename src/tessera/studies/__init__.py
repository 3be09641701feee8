"""Comparisons of variants, each with several seeds, beside what the literature claims."""
