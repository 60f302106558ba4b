"""OpenAI's HTTP API: per endpoint a route, the schema of its body, and its response."""
