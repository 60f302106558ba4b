"""The puller: an RQ worker that turns a model name into verified blobs and a manifest."""
