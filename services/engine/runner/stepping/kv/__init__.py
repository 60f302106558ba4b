"""Accounting of the KV cache: sequences, their cells, and the prefixes that they share."""
