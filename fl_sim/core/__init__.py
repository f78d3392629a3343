"""Shared building blocks: errors, seeding, caching, file formats, vector arithmetic."""
