"""Base classes and helpers shared by the clients."""
