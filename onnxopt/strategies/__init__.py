"""Other forms of the model that may save bytes or time: each proposes, and the search decides."""
