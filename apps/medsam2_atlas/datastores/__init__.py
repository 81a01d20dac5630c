"""MONAI Label datastores over studies that lose nothing: a folder, or the series of a DICOMweb server."""
