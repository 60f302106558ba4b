"""Pull jobs in Redis: what the api, the puller and the command line agree on."""
