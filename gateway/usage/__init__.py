"""What was used, by whom, and what it cost: from the workers' files to the database, and back as sums."""
