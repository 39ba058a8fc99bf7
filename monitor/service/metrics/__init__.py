"""What Prometheus scrapes: the runs' metrics from the live state, the service's own, and the answer that has both."""
