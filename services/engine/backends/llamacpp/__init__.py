"""llama.cpp through llama-cpp-python's ctypes layer; nothing else of that package is used.

library   opening the shared libraries, the log as a source of facts
settings  a LoadConfig as llama.cpp's own parameters
model     weights          vocabulary  text <-> tokens
context   memory and steps          backend  all of them behind the contract
failures  a failed load in words    sizes    exact bytes out of the log
estimate  the dry run
"""
