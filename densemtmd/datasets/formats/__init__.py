"""Files of objects, as the tools write them that people label with: a module per format, read into regions and drawn."""
