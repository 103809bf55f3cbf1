"""The CPU library of csrc/ in Python: its C header (:mod:`sdk.bindings.capi`) and functions on numpy arrays
(:mod:`sdk.bindings.arrays`). Neither needs torch; the torch operators are in sdk.kernels and use ``capi`` too.
"""
