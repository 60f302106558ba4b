"""What computes: llama.cpp, MLX, and a fake for tests, behind one contract (`base.py`)."""
