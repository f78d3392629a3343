"""Protect images that somebody is about to publish: `fl-sim protect`."""
