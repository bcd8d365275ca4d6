"""Images and label files as arrays; photos with their EXIF."""
