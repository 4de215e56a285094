"""The server's side of a federation of duet clients, as a Flower App."""
