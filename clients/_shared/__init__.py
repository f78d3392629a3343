"""Base classes and steps shared by the clients."""
