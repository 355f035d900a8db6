"""What the black-box suites share: the broker under test, waiting, and one driver per protocol."""
