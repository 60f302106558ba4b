"""How much memory there is, how much a model needs, and what to do about it."""
