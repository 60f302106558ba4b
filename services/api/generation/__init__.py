"""From a parsed request to the engine's messages: submits, usage, the client's connection."""
