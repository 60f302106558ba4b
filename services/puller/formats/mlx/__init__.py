"""Reading MLX folders written by strangers: config.json, safetensors headers, tokenizer files."""
