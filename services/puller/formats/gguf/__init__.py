"""Reading GGUF headers written by strangers (ggml's docs/gguf.md; llama.cpp's ggml/src/gguf.cpp)."""
