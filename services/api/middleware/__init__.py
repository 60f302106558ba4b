"""What every HTTP request passes before a route: the access log, authentication, the body limit."""
