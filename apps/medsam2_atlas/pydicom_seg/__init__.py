"""Stands in for the package pydicom-seg, which MONAI Label imports and this app never calls.

pydicom-seg 0.4.1, its last version, keeps NumPy below 2 and imports a module that pydicom 3 no longer has. The app's folder
is on the path of the server and of each process that MONAI Label starts, so they find this one. MONAI Label would use it for
its own conversion of DICOM segmentations; this app's is `medsam2_atlas.dicom`.
"""
