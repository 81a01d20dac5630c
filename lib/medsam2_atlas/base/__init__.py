"""What every room needs and none of them owns: errors, files, configuration, devices, jobs, progress."""
