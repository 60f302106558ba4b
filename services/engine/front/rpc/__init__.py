"""engine.proto's service: messages in, the front's commands and events out."""
