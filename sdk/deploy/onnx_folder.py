"""What exporting and deploying agree on: the manifest of an ONNX folder."""

FORMAT_VERSION = 1
MANIFEST = "personalizer_onnx.json"
