"""The wire contract between training process and service, generated from proto/ by proto/generate.py."""

PROTOCOL_VERSION = 1
