"""What every room stands on: errors, registries of methods, numbers with intervals, files, the terminal."""
