"""A trained model for people: build it, feed it, draw and write what it finds."""
