"""One generation under way: its usage, and the connection of its client."""
