"""Code that all other packages use: errors, files, configuration, devices, jobs and progress."""
