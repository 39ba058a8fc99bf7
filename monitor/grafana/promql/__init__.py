"""The queries: metrics by name, and the ratios made of them."""
