"""Why the prompt of a request was computed, or found in the prompt cache."""
