"""How a generation becomes an HTTP response: server-sent events, or one JSON body."""
