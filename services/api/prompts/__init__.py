"""From a conversation to the prompt: the model's own chat template, safely rendered."""
