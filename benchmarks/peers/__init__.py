"""Programs of other people's making, or made their way, that the benchmarks run beside ours."""
