"""Training of the bundled model and its judge: rerunnable, resumable, on a CPU or a GPU."""
