"""What others' published checkpoints mean, written a second time: numpy and stock diffusers, nothing of `rcodsr`."""
