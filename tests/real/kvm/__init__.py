"""A guest of the tests' own under KVM, which a machine inside another one can run where it cannot boot Linux."""
