"""What an owner does to images before anybody trains on them. One paper, one file."""
