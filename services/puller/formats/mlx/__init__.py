"""Read untrusted MLX folders: config.json, safetensors headers, tokenizer files."""
