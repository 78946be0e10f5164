"""What the past did not lead to expect: evidence per service and step, and incidents made of it."""
