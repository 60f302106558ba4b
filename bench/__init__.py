"""Measure any OpenAI-compatible server, and compare Spindll with its peers.

    load        the load generator, closed loop or open loop; `python -m bench.load --help`
    wire        one streamed HTTP exchange, recorded with as little work as Python allows
    answer      parse a recording: tokens, times, usage, errors
    prompts     the requests: distinct prompts, prompts with one shared prefix, growing chats
    meter       CPU seconds and memory of a server's process tree
    servers     find the peers that are installed, start Spindll and them on the same model file
    scenarios   one module per question; each adds measurements
    results     measurements, raw CSV, medians and ratios
    report      a run as markdown, with plots
    model_files the synthetic models that runs share
    run         the command that runs scenarios: `python -m bench.run --help`, or `make bench`
    gpu         the command for a machine with a GPU: `python -m bench.gpu --help`
    mlx         the command for MLX, beside mlx-lm: `python -m bench.mlx --help`

Absolute numbers vary with the load of the machine. Therefore the servers run side by side in
interleaved rounds, and the result is the ratio of two servers within one round; the report shows
the median of these ratios over all rounds.
"""
