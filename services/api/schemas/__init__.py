"""What requests look like, one file per dialect. Pydantic ends here and in the routes."""
