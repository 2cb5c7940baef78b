"""What turns questions into vectors."""
