"""Care of a store: what leaves it, how it is copied, its tokens, and the commands `sparsity-monitor store|token …`."""
