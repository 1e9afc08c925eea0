"""What scripts/crash-matrix is made of, beside testing/harness; every module says what it is for."""
