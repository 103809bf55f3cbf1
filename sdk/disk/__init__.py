"""Files: read whatever stands at a path, checked; written whole or not at all, under names of our own."""
