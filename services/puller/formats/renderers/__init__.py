"""Prompt formats of our own making, for models that carry only the name of Ollama's renderer."""
