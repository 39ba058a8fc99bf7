"""Offline: what checkpoints hold, how two of them differ, and reports about it."""
