"""Chat templates: untrusted code of downloaded models, rendered in a sandbox under limits."""
