"""Client behaviours, one per file; malicious clients wrap honest ones."""
