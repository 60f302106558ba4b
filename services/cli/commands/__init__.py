"""What each command does; app.py has their options."""
