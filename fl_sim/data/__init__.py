"""Datasets, their partition over clients, and the choice of the images that are protected."""
