"""The whole job on an embedded server with data of production's size and shape."""
