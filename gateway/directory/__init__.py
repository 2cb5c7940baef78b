"""Who there is: organisations, their teams, and their keys."""
