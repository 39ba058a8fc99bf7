"""Dashboards, recording rules and alerts as Python, what is generated from them, and how they get into a Grafana.

Nothing here is on the way of the data: it reads the names of the service's metrics, and writes files and API requests.
"""
