"""A local web page that predicts pictures with a trained network."""
