"""llama.cpp through the ctypes layer of llama-cpp-python; nothing else of that package is used.

library          open the shared libraries, and read llama.cpp's log
compute_modules  choose the CPU and GPU modules of ggml
devices          list the GPUs that loads can use
settings         translate a LoadConfig into llama.cpp's own parameters
model            the weights                  vocabulary  text <-> tokens
context          memory and steps             backend     all of them behind the contract
failures         explain a failed load        sizes       exact buffer sizes, from the log
dry_run          the sizes of a load, without loading
"""
