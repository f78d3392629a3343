"""Local training of clients, one after another or batched, and checks of their updates."""
