"""What every other package uses: errors, files, progress, processes, devices and recipes."""
