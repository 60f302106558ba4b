"""The code of each command; app.py defines their options."""
