"""The published claims about sparse updates, tried on a model that two CPU cores train: see reproduce.sh."""
