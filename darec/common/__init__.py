"""Common utilities: errors, files, hashes, progress, processes, devices, recipes, and interactions."""
