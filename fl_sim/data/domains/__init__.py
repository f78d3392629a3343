"""Domain transforms: what sets the images of one client apart from those of others."""
