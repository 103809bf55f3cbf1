"""The implementations, one file each, and their registry. What they compute is defined by reference.py."""
