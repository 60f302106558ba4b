"""How answers look in OpenAI's API, streamed and complete."""
