"""MONAI Label datastores that keep every version of a label map: of a studies folder, or of a DICOMweb server's series."""
