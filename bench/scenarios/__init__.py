"""One module per question. Each has NAME and `run(plan, results)`, and starts the servers it needs."""
