"""Networks, foundation models, and which part of them is trained."""
