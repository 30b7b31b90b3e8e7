"""Where tensors lie: one module for each kind of file, all satisfying `checkpoint.TensorSource`."""
