"""What the callback finds out from a trainer and starts; with callback.py the only code that knows transformers."""
