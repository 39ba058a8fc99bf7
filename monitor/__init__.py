"""sparsity-monitor: see, live, how sparse a language model's weight updates are while it trains."""

__version__ = "0.1.0"
