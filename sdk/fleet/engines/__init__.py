"""What runs the workers of a fleet, one file each."""
