"""How fast a model runs here, and what it takes."""
