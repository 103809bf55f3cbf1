"""What a fit keeps on disk: checkpoints, the log, the output folder, sheets to look at."""
