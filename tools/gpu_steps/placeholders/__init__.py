"""Models that take the place of those whose packages a GPU machine may lack."""
