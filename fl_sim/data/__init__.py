"""Images, who holds them, and who protects them."""
