"""What a forward pass is made of: the same operations for every family, in torch and as compiled functions."""
