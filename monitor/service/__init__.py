"""Receives what runs report, keeps it, and shows it: gRPC in; store, Prometheus metrics and pages out."""
