"""The middleware of every HTTP request: access log, authentication, body limit."""
