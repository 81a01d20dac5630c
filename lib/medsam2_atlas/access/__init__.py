"""Reads, checks and extends token files, which give people access to a server."""
