"""The report: one page that works without a network, and its pictures as files."""
