"""Carries observations from the training process to the service: spool on disk, uploader process.

A training calls `reporter.py`, whose writer/ commits messages/ to the spool/. An uploader/ delivers them, beside the
training or, by `push.py`, later. Each process knows of the other by processes/, and people know of both by log/.
"""
