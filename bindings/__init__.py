"""The CPU library of csrc/ for programs without torch: :mod:`sdk.bindings.arrays` works on numpy arrays."""
