"""``mpnet bench``: the same work on mpnet and on its peers, in turn, and how they compare."""
