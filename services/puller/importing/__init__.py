"""Models that are on this machine already, taken into the store."""
