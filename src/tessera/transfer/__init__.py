"""Transfer of one model to many data sets: the suite, the draws, the runs, the table."""
