"""The prompt cache of a runner: computed prompts in sealed files, in RAM and on disk."""
