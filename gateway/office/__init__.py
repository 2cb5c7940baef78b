"""The process that holds the database: it serves the admin API and tells the workers who there is."""
