"""Mutants: does a test fail when a line of the product is wrong? The library mutmut makes them, the suite judges."""
