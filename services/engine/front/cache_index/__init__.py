"""What the front knows of the stored prompts: keys, budgets, the index in Redis, deletion."""
