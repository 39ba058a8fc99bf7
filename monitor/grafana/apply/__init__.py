"""Puts dashboards and rules into a running Grafana."""
