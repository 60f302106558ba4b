"""Questions of the api that a puller answers at once, over Redis."""
