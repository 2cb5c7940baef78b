"""The processes of `headrace serve`: a supervisor, its workers, and the engines that it starts."""
