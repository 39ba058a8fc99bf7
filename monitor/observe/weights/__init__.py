"""Which weights are measured: chosen by name, placed on processes, followed while they train."""
