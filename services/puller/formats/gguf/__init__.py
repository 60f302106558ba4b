"""Read untrusted GGUF headers (ggml's docs/gguf.md; llama.cpp's ggml/src/gguf.cpp)."""
