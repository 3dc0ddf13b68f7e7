"""Trained models outside of the MM libraries: their networks in tensors, one ONNX file, and its runner."""
