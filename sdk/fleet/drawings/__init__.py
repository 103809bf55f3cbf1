"""Many pictures: rows of prompts and packs, drawn in batches."""
