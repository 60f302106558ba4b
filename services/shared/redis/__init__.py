"""Redis: how to connect, which keys there are, which user may reach which of them."""
