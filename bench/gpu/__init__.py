"""Measure a GPU with one command, on a machine without a network: `python -m bench.gpu`.

    pack          with a network: collect what a machine without one needs
    needs         which tools, packages and sources the machine has, and the names of missing ones
    cuda_build    an environment with those packages, and llama.cpp's CUDA module
    scale         the sizes of everything measured: for a GPU, or for a dry run
    units         the list of everything to measure, cut into pieces of a few minutes at most
    items         one module per question
    measuring     what an item works with
    raw           steps of a backend without the stack around it
    call          one call: the units that are left, each in its own process, until the time is up
    unit_worker   the process of one unit
    results_file  the file of results, complete after each measurement

A call ends in time. The next one continues, with the build and with the units that are left.
"""
