"""The compared servers: found on this machine, and started on one model file."""
