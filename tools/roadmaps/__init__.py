"""What `tools/roadmap.py` prints, draws and trains of the steps from ResNet to ConvNeXt."""
