"""Networks, foundation models, and the choice of the part that is trained."""
