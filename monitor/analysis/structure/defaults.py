"""Defaults, for the settings and the command line: without torch, which a list of commands can do without."""

ALPHA = 0.1
"""Share of a matrix that counts as its smallest, largest and principal weights, as in arXiv 2606.13657."""

PRINCIPAL_RANK = 0.1
"""Rank at which principal weights are the largest entries, as a share of min(rows, columns), as in arXiv 2606.13657."""

WHOLE_UP_TO = 4096
"""min(rows, columns) up to which all singular values of Δ, and of the base, are computed, as in arXiv 2606.13657."""
