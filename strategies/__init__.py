"""What the server does with updates. One rule, one file."""
