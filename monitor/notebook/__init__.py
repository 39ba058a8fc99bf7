"""A run as frames and curves, for a notebook and for a report: from its output directory, or from a service."""
