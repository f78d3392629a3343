"""Attacks on the privacy of training records: membership inference and reconstruction."""
