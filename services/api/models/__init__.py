"""The stored models: the catalog, pulls on demand, and what fits this machine."""
