"""Train, export and record the tiny model of the tests, `tests/models/tiny/`.

    python -m tests.models.make_tiny train DIR      train a new model: 40 minutes on two cores
    python -m tests.models.make_tiny export DIR     write all formats from DIR/mlx-f16
    python -m tests.models.make_tiny record DIR     write the answers of DIR/tiny-f16.gguf to
                                                    DIR/expected.json

Only `train` requires torch, which is not a dependency of the project: install it by hand, the CPU
build is enough. A new training gives a model with the same knowledge but different bytes.
`docs/develop/test-models.md` explains when to train again.

    shape        dimensions and special tokens
    words        every fact, name, word and passage that is taught
    chat         conversations, tools and their rendering by the chat template
    samples      random conversations for training
    cases        fixed prompts with the taught answers, which the tests send to every backend
    tokenizer    byte-level BPE, trained on the same text
    batches      the rows of tokens of one training step
    network      the model in torch
    training     trains the weights with samples and cases
    export_gguf  writes weights as GGUF (f16, q8_0); numpy only
    export_mlx   writes weights as MLX folders (f16, 8 bits); numpy only
    record       writes down the answers that the model gives under llama.cpp
"""
