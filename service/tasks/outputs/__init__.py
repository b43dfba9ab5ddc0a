"""Results to answers, in the front end."""
