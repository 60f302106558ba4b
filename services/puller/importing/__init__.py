"""Import models that are already on this machine into the store."""
