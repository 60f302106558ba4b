"""Connections to the other services: the engine, and the puller's jobs and searches."""
