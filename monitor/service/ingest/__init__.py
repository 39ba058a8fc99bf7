"""The service over gRPC: streams of items in, acknowledgements and history out."""
