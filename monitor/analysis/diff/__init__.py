"""Two checkpoints compared weight by weight: `sparsity-monitor diff`."""
