"""The models on disk: content-addressed blobs, and one manifest per name that refers to them.

    models/
      blobs/sha256-<64 hex>            a finished file; it does not change any more
      blobs/sha256-<64 hex>.partial    a download in progress, with its state files beside it
      views/<model digest>/<file name> links to blobs, for models of several named files
      manifests/<host>/<namespace>/<model>/<tag>.json
      leases/                          the blobs that running jobs need
      trash/                           files that are about to be unlinked

A model exists when its manifest does. The blobs are written first and the manifest last; both
appear by a rename.
"""
