"""`sparsity-monitor export`: the curves of a run in a file, every point of them."""
