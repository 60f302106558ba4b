"""Chat templates of strangers: rendered in a sandbox, with limits."""
