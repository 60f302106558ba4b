"""From the text that a model writes to reasoning, content and tool calls."""
