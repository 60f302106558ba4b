"""The HTTP and public gRPC service: dialects, API keys, prompts, pull jobs. It loads no weights."""
