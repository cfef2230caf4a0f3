"""What a unit is: the concepts that it answers to, its name, its partner in another network, the classes it is important to."""
