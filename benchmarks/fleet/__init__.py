"""Fleets on a cluster of this machine: fits, drawing and serving while processes are killed; what large ones need."""
