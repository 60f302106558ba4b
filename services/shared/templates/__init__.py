"""Chat templates: untrusted code of downloaded models, rendered in processes of their own."""
