"""Measures weight updates. Knows torch; knows nothing of files, networks or trainers."""
