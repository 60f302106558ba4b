"""Tool calls in the text of a model: one dialect for each form, chosen by the chat template."""
