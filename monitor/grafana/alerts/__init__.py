"""What is worth waking somebody for: each alert once, for Prometheus and for Grafana."""
