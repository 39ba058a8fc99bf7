"""The present of every run, in memory: immutable snapshots that metrics, API and pages read."""
