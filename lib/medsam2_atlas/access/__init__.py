"""Access to a server: reads, checks and extends files of tokens."""
