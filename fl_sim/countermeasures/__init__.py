"""What a trainer does to get around protections. One method, one file."""
