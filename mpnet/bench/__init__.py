"""What experiments and ``mpnet bench`` measure: mpnet and its peers, and the work that is done on them."""
