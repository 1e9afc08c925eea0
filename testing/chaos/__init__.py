"""What scripts/chaos is made of; every module says what it is for. `application` and `tool` are programs of their own."""
