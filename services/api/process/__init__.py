"""How the api is run: gunicorn's configuration, and the worker class it starts."""
