"""What each command of `sparsity-monitor` does that no other room does, and how a command ends."""
