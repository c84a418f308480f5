"""What every other package uses: errors, files, hashes, progress, processes, devices, recipes, and interactions."""
