"""The public gRPC service of protos/spindll.proto."""
