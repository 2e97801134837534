"""The steps of a build, in the order in which data meets them."""
