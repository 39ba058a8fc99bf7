"""The read interface /api/v1: runs, their curves over the steps, their groups, for programs and for the page."""
