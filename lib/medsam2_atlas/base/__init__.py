"""Errors, files, configuration, devices, jobs and progress: used by all other packages."""
