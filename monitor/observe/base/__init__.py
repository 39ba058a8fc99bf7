"""The frozen weights that updates are measured against: what they are, and where they are kept."""
