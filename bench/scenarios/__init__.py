"""One module per question. Each has a NAME and `run(plan, results)`, which starts its servers."""
