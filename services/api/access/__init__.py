"""API keys, the principals they belong to, and the two key files."""
