"""What a model file is: headers read, templates checked, models described."""
