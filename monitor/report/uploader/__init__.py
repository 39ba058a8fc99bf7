"""Carries what a spool holds to the service, and removes what that acknowledged. All of reporting's gRPC is here.

In a process of its own beside the training (`__main__.py`), or in that of `sparsity-monitor push`.
"""
