"""Carries what a spool holds to the service, and removes what that acknowledged. Here alone is gRPC.

In a process of its own beside the training (`__main__.py`); in that of `sparsity-monitor push`.
"""
