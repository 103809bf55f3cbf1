"""The study: every method and ablation on the benchmark scenes of the bundled world."""
