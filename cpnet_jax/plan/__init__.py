"""What a training step will cost on TPUs that nobody has rented yet: compiled here, for chips that are not."""
