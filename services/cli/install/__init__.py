"""Make .venv from the lock files.

Standard library only: this package runs before anything is installed.
"""
