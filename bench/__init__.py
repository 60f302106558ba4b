"""Measure any OpenAI-compatible server, and ours beside its peers.

    load      drive a server: closed loop, open loop; `python -m bench.load --help`
    wire      one streamed HTTP exchange, recorded as cheaply as Python can
    answer    what a recording says: tokens, times, usage, errors
    prompts   the texts that are sent: all different, one prefix, growing chats
    meter     CPU seconds and memory of a server's process tree
    servers   start and stop ours and the peers on the same model file
    scenarios one module per question; each yields measurements
    results   measurements to CSV, markdown and SVG
    run       all of it: `python -m bench.run --help`, or `make bench`

Absolute numbers wander with the machine's mood. So servers run side by side in interleaved rounds,
and what counts is the ratio of one round's numbers: the median of those of all rounds.
"""
