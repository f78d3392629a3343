"""What an outsider does to a finished model, or to the messages that made it."""
