"""Who may do what: API keys and the principals they belong to."""
