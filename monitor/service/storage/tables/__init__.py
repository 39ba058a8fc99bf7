"""The tables of the store, what their rows hold, and how older ones are brought up to date."""
