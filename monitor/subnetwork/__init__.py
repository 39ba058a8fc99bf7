"""Training only a subnetwork: the weights inside a mask move, the others stay bit for bit what they were."""
