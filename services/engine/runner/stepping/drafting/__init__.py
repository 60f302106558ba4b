"""Sources of drafts: guesses at the next tokens, for steps with rows to spare."""
