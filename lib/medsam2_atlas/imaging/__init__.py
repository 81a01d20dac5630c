"""Images and their geometry: reading, writing, HU, labels, masks, previews. Only this package handles axes and orientations."""
