"""The one pipeline behind every dialect: a request in, events out."""
