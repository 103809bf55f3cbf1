"""End to end on a GPU: fits, drawings, exported folders, many packs in a batch, memory; each beside its peers."""
