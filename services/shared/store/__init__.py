"""Models on disk: content-addressed blobs, and one manifest per name that points at them.

    models/
      blobs/sha256-<64 hex>            bytes, immutable once there
      blobs/sha256-<64 hex>.partial    a download under way (with its own state beside it)
      views/<model digest>/<file name> links to blobs, for models of several named files
      manifests/<host>/<namespace>/<model>/<tag>.json

A model exists when its manifest does: blobs first, manifest last, both by rename.
"""
