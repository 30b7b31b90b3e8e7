"""Write ONNX folders that ONNX Runtime and ONNX Runtime GenAI run."""
