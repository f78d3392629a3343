"""What a participant does in a round. One behaviour, one file; malicious ones wrap honest ones."""
