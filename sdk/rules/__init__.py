"""What may be asked of a call, for torch and for ONNX Runtime alike."""
