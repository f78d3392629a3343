"""Statistics shared by the metrics: intervals, ROC curves and groups of clients."""
