"""Receives what runs report, keeps it, and shows it: gRPC in; store, Prometheus metrics and pages out.

ingest → recording → storage, live → metrics, web. `server` runs all of it, `care` looks after what is stored.
"""
