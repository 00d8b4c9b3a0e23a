"""One cell of the grid: a task's data, a training, its metrics."""
