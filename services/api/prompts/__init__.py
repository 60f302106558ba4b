"""From a conversation to the text a model was trained to continue: its own template, made safe."""
