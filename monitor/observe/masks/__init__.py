"""One bit per weight: masks in memory, in files, across processes, and those of other runs."""
