"""Sampling without torch: noise, noise levels, and one file for each kind of sampler."""
