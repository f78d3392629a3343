"""Tables, figures and the page; reads results only, and needs no torch."""
