"""Go's text/template as Ollama uses it: chat templates that are not Jinja."""
