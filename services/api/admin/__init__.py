"""Routes for operators: models, pull jobs, search and status, each with its schema."""
