"""The curves of a run over its steps: an index beside the items, and what is read from it."""
