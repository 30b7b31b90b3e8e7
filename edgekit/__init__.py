"""edgekit: from a trained checkpoint to a measured edge device."""
