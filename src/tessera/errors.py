"""Errors that are nobody's mistake in the input.

A mistake in the input is a ``ValueError`` whose message names what was given, what is wanted, and,
on a line that begins with ``hint:``, the way out.
"""


class RunError(RuntimeError):
    """A run that cannot go on; the message says why and what to do."""
