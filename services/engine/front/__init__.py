"""The front: the process that api workers speak to. It plans memory, owns the runners, links no llama.cpp."""
