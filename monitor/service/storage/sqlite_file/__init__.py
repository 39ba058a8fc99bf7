"""The file of a SQLite store: what it may be, which process has it, and whether its name still leads to it."""
