"""Shared by all rooms: errors, files, configuration, devices, jobs, progress."""
