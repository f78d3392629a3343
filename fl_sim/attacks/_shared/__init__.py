"""Signals and reference models shared by the membership attacks."""
