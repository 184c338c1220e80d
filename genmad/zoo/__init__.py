"""Where corpora come from: the models of installed libraries, search spaces, and a user's own folder."""
