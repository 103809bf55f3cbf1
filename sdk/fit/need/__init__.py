"""What a fit needs of a machine: memory, counted; time, measured."""
