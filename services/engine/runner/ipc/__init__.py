"""Between the runner's loop and the front's pipe: commands in, reports out, the heartbeat."""
