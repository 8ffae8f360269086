"""What happens between field vectors and the head of a CTR model."""
