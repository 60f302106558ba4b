"""The shapes that calls have. A family of models is a row of one of them (`families`)."""
