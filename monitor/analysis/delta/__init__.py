"""Ship only the difference: a fine-tuned checkpoint as the changes of its base, bit for bit. See FORMAT.md."""
