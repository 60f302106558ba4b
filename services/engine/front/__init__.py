"""The front: the engine process that api workers connect to.

It plans memory and owns the runner processes. It does not link llama.cpp.
"""
