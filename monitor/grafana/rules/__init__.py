"""The alerts as Prometheus has them, and as Grafana has them."""
