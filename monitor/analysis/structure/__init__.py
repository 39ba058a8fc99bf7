"""The structure of an update: its rank and energy, its rows and columns, and where in the base it landed."""
