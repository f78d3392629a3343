"""Differential-privacy accounting."""
