"""What ``mpnet experiment`` does: a question as factors, trials in random order, a report with intervals."""
