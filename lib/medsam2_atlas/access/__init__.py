"""Reads, checks and extends files of tokens, which give people access to a server."""
