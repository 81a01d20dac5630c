"""An empty replacement for the package pydicom-seg, which MONAI Label imports and this app never calls.

The last version of pydicom-seg, 0.4.1, requires NumPy below 2 and imports a module that pydicom 3 no longer has. The app's
folder is on the path of the server and of each process that MONAI Label starts, so they import this replacement. MONAI Label
uses the package for its own conversion of DICOM segmentations; this app uses `medsam2_atlas.dicom` instead.
"""
