"""Embeddings and ranking: texts are prepared, batched and computed between two steps."""
