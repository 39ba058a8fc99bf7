"""Care of a store: what leaves it, how it is copied, and the commands `sparsity-monitor store …`."""
