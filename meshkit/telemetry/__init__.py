"""What a program tells of itself."""
