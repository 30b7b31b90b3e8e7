"""What a checkpoint is: its specification, tensors, tokenizer, calibration text and forward pass."""
