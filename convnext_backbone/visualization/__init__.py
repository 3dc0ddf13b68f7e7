"""Pictures of images, classes and feature maps, from arrays alone."""
