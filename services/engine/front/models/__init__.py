"""Which models are loaded: requests wait here, models are loaded, evicted and given up."""
