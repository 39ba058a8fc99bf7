"""Broken on purpose: what a training and a service go through, and that nothing is lost, doubled or disturbed."""
