"""Runner processes: how one is started, how the front talks to it, and how it is ended."""
