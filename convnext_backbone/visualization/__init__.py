"""Pictures of images, classes and feature maps, drawn from arrays."""
