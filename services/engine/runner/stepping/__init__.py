"""Continuous batching over a backend that computes one forward pass at a time."""
