"""Where records outlive a worker and reach the others: nowhere, a file, or Redis."""
