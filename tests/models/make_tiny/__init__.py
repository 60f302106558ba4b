"""The maker of the one trained model of the tests: `tests/models/tiny/`.

    python -m tests.models.make_tiny train DIR      all files from nothing: 40 minutes on two cores
    python -m tests.models.make_tiny export DIR     weights of DIR/mlx-f16 -> all formats anew
    python -m tests.models.make_tiny record DIR     what DIR/tiny-f16.gguf says -> DIR/expected.json

Only `train` needs torch, which is no dependency of the project: `pip install torch` where it is
wanted (the CPU build will do). Training again gives a model that knows the same, not the same
bytes; `docs/models-for-tests.md` says when it is worth it.

    shape      dimensions and special tokens
    words      every fact, name, word and passage it is taught
    samples    random conversations over them, to learn from
    cases      fixed prompts with the answer taught, which every backend is asked
    tokenizer  byte-level BPE trained on the same text
    network    the model in torch
    training   samples and cases -> weights
    export     weights -> GGUF (f16, q8_0) and MLX folders (f16, q8); numpy only
    record     asks llama.cpp and writes down what the model really says
"""
