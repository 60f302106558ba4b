"""One request in a runner: from its command to tokens, and from tokens to text."""
