"""The books of the KV cache: sequences, their cells, and the prefixes they share."""
