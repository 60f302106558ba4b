"""The bodies of the routes, and what is refused of them."""
