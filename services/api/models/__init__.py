"""Which models there are: the catalog, pulls on demand, and what would fit this machine."""
