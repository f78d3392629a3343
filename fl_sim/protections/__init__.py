"""Protections of images by their owner before training. One paper, one file."""
