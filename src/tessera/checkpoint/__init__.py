"""The one-file artefact, and everything else that weights are kept in."""
