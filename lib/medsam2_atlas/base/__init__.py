"""What all rooms share: errors, files, configuration, devices, jobs and progress."""
