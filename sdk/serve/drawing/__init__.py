"""What draws, one file each, the line before it, and the packs it has at hand."""
