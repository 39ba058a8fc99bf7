"""Who may report, read and administer: certificates, tokens, and the network that the service listens on."""
