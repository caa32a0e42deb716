"""Post-processing of sums: requantise, threshold, table, store."""
