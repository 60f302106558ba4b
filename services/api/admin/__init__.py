"""Routes for operators: pull jobs, search and status, each with the schema of its body."""
