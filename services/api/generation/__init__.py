"""From a parsed request to the engine's messages, whichever dialect it came in."""
