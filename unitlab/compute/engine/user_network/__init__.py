"""The network as the user gives it: a copy to work on, and the logits in what it returns."""
