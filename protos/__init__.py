"""Generated gRPC code, committed; `make proto` makes it anew."""
