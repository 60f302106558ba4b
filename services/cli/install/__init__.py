"""Makes .venv from the lock files. Standard library only: it runs before anything is installed."""
