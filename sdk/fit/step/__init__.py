"""One step of a fit on its device: rows made ready, losses read late, blocks compiled."""
