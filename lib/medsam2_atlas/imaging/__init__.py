"""An image and its geometry: reading, writing, values, labels, masks, previews; the only place with axes."""
