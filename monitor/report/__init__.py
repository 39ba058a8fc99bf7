"""Carries observations from the training process to the service: spool on disk, uploader process."""
