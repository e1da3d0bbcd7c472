"""Sources of images: NASA, Galaxy10, survey cutouts."""
