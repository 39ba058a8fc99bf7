"""One contract, several implementations: see contract.py."""
