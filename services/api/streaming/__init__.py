"""How an answer leaves: as server-sent events, or in one piece."""
