"""The HTTP and public gRPC service: dialects, keys, prompts, jobs. Never loads weights."""
