"""One dialect for each family of models, in the form of its chat template."""
