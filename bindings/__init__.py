"""The CPU library of csrc/ in Python: :mod:`sdk.bindings.capi` is its C header, :mod:`sdk.bindings.arrays` numpy functions.

Neither needs torch; the torch operators are in sdk.kernels and use ``capi`` too.
"""
