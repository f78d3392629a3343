"""Protection of images before they are published: `fl-sim protect`."""
