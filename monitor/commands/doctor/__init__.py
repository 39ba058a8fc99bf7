"""`sparsity-monitor doctor`: what is between this machine and the service, one thing after the other."""
