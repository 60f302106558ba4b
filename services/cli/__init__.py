"""The `spindll` command: runs the stack as plain processes, and is a client of the API."""
