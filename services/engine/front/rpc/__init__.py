"""The gRPC service of engine.proto: requests in, calls to the models, events and answers out."""
